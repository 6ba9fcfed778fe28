"""Reads PyTorch checkpoints of MAT as NumPy arrays, without PyTorch.

Three kinds of files are told apart by what is in them, not by their names:

- the official pickle (`CelebA-HQ_256.pkl`, `network-snapshot-*.pkl`): a dict with
  the module trees of G, D and G_ema, whose tensors are each a small stream of the
  older `torch.save` format;
- state dicts of `torch.save` (`.pth`): a zip archive or the older stream;
- `.safetensors`.

Nothing that a file names is imported, and none of the Python source that the
official pickle carries is run: `convert.torch_files.safe_pickle` reads the structure, and the
functions here give a meaning to the few globals in `_ALLOWED`. Tensors stay in the
file until their network turns out to be wanted and are then read one by one into
arrays of their own, so that memory holds little more than what is returned.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import itertools
import math
import os
import stat
from typing import Any, BinaryIO

import numpy as np

from convert import safetensors_files
from convert.torch_files import limits
from convert.torch_files.array_pickle import numpy_dtype
from convert.torch_files.file_window import Blob, FormatError, Window
from convert.torch_files.safe_pickle import SET, Call, Global, RefusedGlobalError, is_key, load
from convert.torch_files.torch_storage import (
    DTYPES,
    MAGIC_NUMBER,
    STORAGES,
    Storage,
    View,
    read_archive,
    read_stream,
    read_view,
)
from mat_jax.errors import UserError

NETWORK_NAMES = ('G', 'D', 'G_ema')

_WRAPPERS = ('state_dict', 'params', 'model')

_PERSISTENT_CLASS = 'torch_utils.persistence._reconstruct_persistent_obj'
_STORAGE_BYTES = 'torch.storage._load_from_bytes'
_TENSOR_OF_UNTYPED = 'torch._utils._rebuild_tensor_v3'  # gives the dtype itself
_TENSORS = {'torch._utils._rebuild_tensor', 'torch._utils._rebuild_tensor_v2', _TENSOR_OF_UNTYPED}
_PARAMETERS = {'torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state',
               'torch.nn.parameter.Parameter'}
_MODULES = {f'torch.nn.modules.{name}' for name in (
    'container.ModuleList', 'container.Sequential', 'activation.Softmax', 'activation.GELU',
    'normalization.LayerNorm', 'pooling.AdaptiveAvgPool2d')}
_GROUPS = ('_parameters', '_buffers', '_modules')
_TRANSIENT = '_non_persistent_buffers_set'
_DICTS = {'collections.OrderedDict', 'dnnlib.util.EasyDict'}
_SETS = {SET, '__builtin__.set'}
_SCALARS = {'numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar'}
_ALLOWED = frozenset(
    {_PERSISTENT_CLASS, _STORAGE_BYTES, 'numpy.dtype', 'torch.device',
     *(f'torch.{name}' for name in DTYPES), *STORAGES, *_TENSORS, *_PARAMETERS, *_MODULES,
     *_DICTS, *_SETS, *_SCALARS})


@dataclasses.dataclass
class Network:
  """A network as a checkpoint stores it.

  Attributes:
    state_dict: parameters and buffers by their PyTorch names, as arrays of their
      own in the dtype of the file (bfloat16 as `ml_dtypes.bfloat16`). A tensor that
      occurs under two names is one array.
    init_kwargs: what the network was constructed with, as plain Python values;
      empty for files that do not tell.
  """

  state_dict: dict[str, np.ndarray]
  init_kwargs: dict[str, Any]


def read_networks(path: str | os.PathLike[str],
                  networks: Sequence[str] | None = None) -> dict[str, Network]:
  """Reads the networks of a PyTorch checkpoint.

  Args:
    path: an official pickle, a `torch.save` file or a `.safetensors` file.
    networks: which to read, of 'G', 'D' and 'G_ema'; None reads all that are there.

  Returns:
    The networks by name. A plain state dict is one network named 'G_ema'.

  Raises:
    UserError: the file is missing, damaged or of another kind, refers to a global
      that no checkpoint needs, or lacks one of `networks`.
  """
  path = os.fspath(path)
  wanted = (networks,) if isinstance(networks, str) else networks
  with _opened(path) as file:
    if safetensors_files.is_safetensors(file):
      _select(['G_ema'], wanted)
      return {'G_ema': Network(safetensors_files.read(path), {})}
    nodes = _network_nodes(_tree(file))
    reader = _TensorReader(_size(file))
    return {name: reader.network(nodes[name]) for name in _select(list(nodes), wanted)}


def network_names(path: str | os.PathLike[str]) -> list[str]:
  """Names of the networks that `read_networks` finds in a file, without reading them."""
  with _opened(os.fspath(path)) as file:
    if safetensors_files.is_safetensors(file):
      return ['G_ema']
    return list(_network_nodes(_tree(file)))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
  """The open file; what goes wrong with it becomes a `UserError`."""
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block
      raise FormatError('is not a file')
    with open(path, 'rb') as file:
      yield file
  except FormatError as error:
    raise UserError(f'{path} {error}.') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror or error}.') from error


def _size(file: BinaryIO) -> int:
  return os.fstat(file.fileno()).st_size


def _tree(file: BinaryIO) -> Any:
  """The contents of a pickle, or of the pickle in a `torch.save` file."""
  head = file.read(2)
  if not head:
    raise FormatError('is empty')
  if head == b'PK':
    return read_archive(file, _ALLOWED)
  return _pickle_or_stream(file, _size(file), is_pickle=head.startswith(b'\x80'))


def _select(names: list[str], wanted: Sequence[str] | None) -> list[str]:
  for name in wanted or ():
    if name not in names:
      raise FormatError(f'has no network {name!r}, only {", ".join(names)}')
  return [name for name in names if wanted is None or name in wanted]


def _pickle_or_stream(file: BinaryIO, size: int, is_pickle: bool) -> Any:
  """Tree of an official pickle or of the older torch.save format."""
  try:
    first = load(Window(file, 0, size), _ALLOWED)
  except RefusedGlobalError:
    raise
  except FormatError as error:
    if is_pickle:
      raise
    raise FormatError('is neither a PyTorch checkpoint nor a safetensors file (a download '
                      'may have saved a web page in its place)') from error
  if isinstance(first, int) and first == MAGIC_NUMBER:
    return read_stream(Blob(file, 0, size), _ALLOWED)
  return first


# Trees: which tensors a network has.


def _network_nodes(tree: Any) -> dict[str, Any]:
  """Finds the networks of a file: a module or a dict of tensors each, by name."""
  tree = _unwrap(tree)
  return {name: _unwrap(node) for name, node in _named(tree).items()} or {'G_ema': tree}


def _named(tree: Any) -> dict[str, Any]:
  entries = _mapping(tree) or {}
  return {name: entries[name] for name in NETWORK_NAMES
          if _is_module(entries.get(name)) or _mapping(entries.get(name)) is not None}


def _unwrap(tree: Any) -> Any:
  """Goes from {'state_dict': {...}, 'epoch': 3} and the like to what is inside."""
  for _ in range(limits.DEPTH):
    entries = _mapping(tree)
    if entries is None and not _is_module(tree):
      raise FormatError('holds neither networks nor a dict of tensors')
    inside = [name for name in _WRAPPERS if _mapping((entries or {}).get(name)) is not None]
    if entries is None or _named(tree) or not inside or (
        any(_is_tensor(value) for value in entries.values())):
      return tree
    if len(inside) > 1:
      raise FormatError(f'holds several state dicts ({", ".join(inside)}); save the one to '
                        'convert in a file of its own')
    tree = entries[inside[0]]
  raise FormatError('wraps its state dict too many times')


def _mapping(node: Any) -> dict[Any, Any] | None:
  """The items of a dict or of one of its subclasses, None for anything else."""
  if isinstance(node, Call) and node.callee in _DICTS:
    if node.args:  # once, since many nodes may share this one
      node.args, node.items = (), _argument_items(node.args)
    return node.items or {}
  return node if isinstance(node, dict) else None


def _argument_items(args: tuple[Any, ...]) -> dict[Any, Any]:
  """Items in the form [[key, value], ...], as Python 2 stored an OrderedDict."""
  match args:
    case ([*pairs],) if all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs):
      return dict(pairs)
  raise FormatError('has a damaged dict')


def _is_module(node: Any) -> bool:
  return isinstance(node, Call) and (node.callee == _PERSISTENT_CLASS or node.callee in _MODULES)


def _is_tensor(node: Any) -> bool:
  return isinstance(node, Call) and (node.callee in _TENSORS or node.callee in _PARAMETERS)


def _attributes(module: Any) -> dict[Any, Any]:
  """A module's `__dict__`; the source code beside it is left alone."""
  state = module.state if isinstance(module, Call) else None
  if _is_module(module) and module.callee == _PERSISTENT_CLASS:
    meta = _mapping(module.args[0]) if module.args else None
    state = (meta or {}).get('state')
  attributes = _mapping(state)
  if not _is_module(module) or attributes is None:
    raise FormatError('has a damaged module')
  return attributes


def _elements(node: Any) -> Sequence[Any] | None:
  """What a set holds, None for anything else; hashing it is for the caller to dare."""
  match node:
    case Call(callee, (list(values) | tuple(values),)) if callee in _SETS:
      return values
  return None


def _named_items(attributes: dict[Any, Any], group: str) -> dict[str, Any]:
  items = _mapping(attributes.get(group))
  if items is None or not all(isinstance(name, str) and len(name) <= limits.NAME
                              and '.' not in name for name in items):
    raise FormatError(f'has a module with damaged {group}')
  return {name: node for name, node in items.items() if node is not None}


def _own_tensors(attributes: dict[Any, Any]) -> dict[str, Any]:
  """Parameters and buffers of one module, less the buffers that are not to be stored."""
  parameters = _named_items(attributes, '_parameters')
  buffers = _named_items(attributes, '_buffers')
  if parameters.keys() & buffers.keys():
    raise FormatError('has a module with two tensors of one name')
  for name in _elements(attributes.get(_TRANSIENT)) or ():
    if isinstance(name, str):
      buffers.pop(name, None)
  return parameters | buffers


def _module_tensors(module: Any) -> dict[str, Any]:
  """What `Module.state_dict` lists, in its order: a module's tensors, then its children's."""
  tensors: dict[str, Any] = {}
  waiting = [('', module)]
  left = limits.ENTRIES
  while waiting:
    prefix, module = waiting.pop()
    attributes = _attributes(module)
    left -= 1 + sum(len(_mapping(attributes.get(group)) or ()) for group in _GROUPS)
    left -= len(_elements(attributes.get(_TRANSIENT)) or ())
    if left < 0 or prefix.count('.') > limits.DEPTH:
      raise FormatError('has a module that contains itself, or far more modules than MAT')
    tensors.update((prefix + name, node) for name, node in _own_tensors(attributes).items())
    children = _named_items(attributes, '_modules')
    waiting += [(f'{prefix}{name}.', child) for name, child in reversed(children.items())]
  return tensors


def _plain(node: Any, count: Iterator[int] | None = None, depth: int = 0) -> Any:
  """Python value of a constructor argument."""
  count = itertools.count() if count is None else count
  if next(count) >= limits.ENTRIES or depth > limits.DEPTH:
    raise FormatError('has endless constructor arguments')
  if node is None or isinstance(node, bool | int | float | str):
    return node
  if isinstance(node, Global):
    return node.name
  if isinstance(node, list | tuple):
    return type(node)(_plain(value, count, depth + 1) for value in node)
  entries = _mapping(node)
  if entries is not None:
    return {key: _plain(value, count, depth + 1) for key, value in entries.items()}
  values = _elements(node)
  if values is not None and all(is_key(value) or isinstance(value, float) for value in values):
    return {_plain(value, count, depth + 1) for value in values}
  match node:
    case Call('torch.device', (str(kind),)):
      return kind
    case Call('torch.device', (str(kind), int(index))) if is_key(index):
      return f'{kind}:{index}'
    case Call('numpy.dtype'):
      return numpy_dtype(node).name
    case Call(callee, (dtype, Blob() as blob)) if callee in _SCALARS:
      data = Window(blob.file, blob.start, blob.start + blob.length)
      dtype = numpy_dtype(dtype)
      return np.frombuffer(data.read(dtype.itemsize), dtype)[0].item()
  raise FormatError('has a constructor argument of a kind that MAT does not use')


# Tensors: from descriptions to arrays.


class _TensorReader:
  """Reads tensors into arrays of their own.

  Args:
    file_size: of the whole file, in bytes. A few bytes can describe a tensor of any
      size by repeating them, so it bounds what is read.
  """

  def __init__(self, file_size: int):
    self._left = max(limits.REPEATS * file_size, limits.SMALL)
    self._streams: dict[Blob, Any] = {}
    self._arrays: dict[View, np.ndarray] = {}

  def network(self, node: Any) -> Network:
    """Returns the network that a module or a dict of tensors describes."""
    kwargs = {}
    if _is_module(node):
      tensors: dict[str, Any] | None = _module_tensors(node)
      kwargs = _plain(_mapping(_attributes(node).get('_init_kwargs')) or {})
    else:
      tensors = _mapping(node)
    if not tensors:
      raise FormatError('has a network without tensors')
    return Network({name: self._array(name, tensor) for name, tensor in tensors.items()}, kwargs)

  def _array(self, name: Any, node: Any) -> np.ndarray:
    for _ in range(limits.DEPTH):
      if isinstance(node, Call) and node.callee in _PARAMETERS and node.args:
        node = node.args[0]
    if not isinstance(name, str) or not _is_tensor(node):
      raise FormatError(f'has an entry {name!r:.100} that is not a tensor')
    view = self._view(node)
    if view is None:
      raise FormatError(f'has a damaged tensor {name!r:.100}')
    if view not in self._arrays:
      self._arrays[view] = self._read(name, view)
    return self._arrays[view]

  def _view(self, node: Call) -> View | None:
    match node.args:
      case (storage, int(offset), tuple(size), tuple(stride), *more) if (
          len(size) == len(stride) <= limits.DIMENSIONS
          and all(isinstance(n, int) and 0 <= n < limits.SIZE for n in (offset, *size, *stride))):
        storage = self._storage(storage)
      case _:
        return None
    if storage is None or node.callee not in _TENSORS:
      return None
    dtype: np.dtype | None = storage.dtype
    if node.callee == _TENSOR_OF_UNTYPED:
      kind = more[2].name if len(more) > 2 and isinstance(more[2], Global) else ''
      dtype = DTYPES.get(kind.removeprefix('torch.'))
    # A dimension of one element may have any stride.
    stride = tuple(s if n > 1 else 0 for n, s in zip(size, stride, strict=True))
    return View(storage, dtype, offset, size, stride) if dtype is not None else None

  def _storage(self, node: Any) -> Storage | None:
    """The storage itself or, in the official pickle, what its stream holds."""
    match node:
      case Call(callee, (Blob() as blob,)) if callee == _STORAGE_BYTES:
        if blob not in self._streams:
          self._streams[blob] = read_stream(blob, STORAGES.keys())
        node = self._streams[blob]
    return node if isinstance(node, Storage) else None

  def _read(self, name: str, view: View) -> np.ndarray:
    """Copies a view: array [*size]."""
    self._left -= max(view.span, math.prod(n or 1 for n in view.size)) * view.dtype.itemsize
    if self._left < 0:
      raise FormatError(f'describes more numbers than it holds (up to tensor {name!r:.100})')
    return read_view(name, view)
