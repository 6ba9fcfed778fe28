"""Checkpoints for tests, written operation by operation: no torch, and no stand-ins for it."""

import io
import pickle
import struct
import zipfile

import numpy as np
from safetensors.numpy import save_file

KINDS = {'float16': 'Half', 'bfloat16': 'BFloat16', 'float32': 'Float', 'float64': 'Double',
          'int8': 'Char', 'int16': 'Short', 'int32': 'Int', 'int64': 'Long', 'uint8': 'Byte',
          'bool': 'Bool', 'complex64': 'ComplexFloat'}


class Ref:
  """A global."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class Made:
  """The result of a call, then BUILD with `state` and SETITEMS with `items`."""

  def __init__(self, module, name, args=(), state=None, items=None, operation=pickle.REDUCE):
    self.ref, self.args, self.operation = Ref(module, name), args, operation
    self.state, self.items = state, items


class Persistent:
  """A persistent id."""

  def __init__(self, value):
    self.value = value


def dumps(value, protocol=3):
  """A pickle of plain values and of the classes above."""
  out, memo = io.BytesIO(), {}
  out.write(pickle.PROTO + bytes([protocol]))
  _emit(out, value, protocol, memo)
  out.write(pickle.STOP)
  return out.getvalue()


def _emit(out, value, protocol, memo):
  emit = lambda part: _emit(out, part, protocol, memo)  # noqa: E731
  if isinstance(value, str):
    text = value.encode()
    out.write(pickle.BINUNICODE + struct.pack('<I', len(text)) + text)
  elif isinstance(value, bytes):
    out.write(pickle.BINBYTES + struct.pack('<I', len(value)) + value)
  elif isinstance(value, tuple | list):
    out.write(pickle.MARK)
    for part in value:
      emit(part)
    out.write(pickle.TUPLE if isinstance(value, tuple) else pickle.LIST)
  elif isinstance(value, dict):
    out.write(pickle.EMPTY_DICT)
    _emit_items(out, value, emit)
  elif isinstance(value, Ref):
    if protocol < 4:
      out.write(pickle.GLOBAL + f'{value.module}\n{value.name}\n'.encode())
    else:
      emit(value.module)
      emit(value.name)
      out.write(pickle.STACK_GLOBAL)
  elif isinstance(value, Persistent):
    emit(value.value)
    out.write(pickle.BINPERSID)
  elif isinstance(value, Made):
    _emit_made(out, value, emit, memo)
  else:  # None, bool, int, float: as pickle writes them, without its header and end
    out.write(pickle.dumps(value, 2)[2:-1])


def _emit_items(out, items, emit):
  out.write(pickle.MARK)
  for key, part in items.items():
    emit(key)
    emit(part)
  out.write(pickle.SETITEMS)


def _emit_made(out, value, emit, memo):
  if id(value) in memo:
    out.write(pickle.LONG_BINGET + struct.pack('<I', memo[id(value)]))
    return
  emit(value.ref)
  emit(value.args)
  out.write(value.operation)
  memo[id(value)] = len(memo)
  out.write(pickle.LONG_BINPUT + struct.pack('<I', memo[id(value)]))
  if value.state is not None:
    emit(value.state)
    out.write(pickle.BUILD)
  if value.items:
    _emit_items(out, value.items, emit)


def ordered(items):
  return Made('collections', 'OrderedDict', items=items)


def storage(key, array, location='cpu'):
  kind = Ref('torch', KINDS[array.dtype.name] + 'Storage')
  return Persistent(('storage', kind, key, location, array.size))


def stream(tree, arrays, protocol=2):
  """The older torch.save format; `arrays` holds the storages by key."""
  system = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}
  parts = [dumps(part, protocol)
           for part in (0x1950a86a20f9469cfc6c, 1001, system, tree, sorted(arrays))]
  for _, array in sorted(arrays.items()):
    parts += [struct.pack('<q', array.size), array.tobytes()]
  return b''.join(parts)


def archive(tree, arrays, protocol=2, byteorder='little', compression=zipfile.ZIP_STORED):
  """The zip format of torch.save."""
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', compression) as file:
    file.writestr('model/data.pkl', dumps(tree, protocol))
    file.writestr('model/byteorder', byteorder)
    for key, array in arrays.items():
      file.writestr(f'model/data/{key}', array.tobytes())
    file.writestr('model/version', '3\n')
  return out.getvalue()


def tensor(storage_node, size, stride=None, offset=0):
  if stride is None:
    stride = tuple(int(np.prod(size[i + 1:])) for i in range(len(size)))
  return Made('torch._utils', '_rebuild_tensor_v2',
              (storage_node, offset, tuple(size), stride, False, ordered({})))


def official_tensor(array, location='cpu', parameter=True):
  data = stream(storage('94', array.ravel(), location), {'94': array.ravel()})
  node = tensor(Made('torch.storage', '_load_from_bytes', (data,)), array.shape)
  if not parameter:
    return node
  return Made('torch._utils', '_rebuild_parameter', (node, True, ordered({})))


def state_of(parameters=None, buffers=None, children=None, **attributes):
  return {'training': False, '_parameters': ordered(parameters or {}),
          '_buffers': ordered(buffers or {}), '_modules': ordered(children or {}),
          '_non_persistent_buffers_set': Made('builtins', 'set', ([],)),
          '_backward_hooks': ordered({}), **attributes}


def module(class_name, state, source='# source\n'):
  meta = {'type': 'class', 'version': 6, 'module_src': source, 'class_name': class_name,
          'state': state}
  return Made('torch_utils.persistence', '_reconstruct_persistent_obj', (meta,))


def layer(side, parameters=None, **attributes):
  """A StyleConv with its arguments; the reference gives it 2**side where it means the side."""
  kwargs = {'in_channels': 512, 'activation': 'lrelu', 'demodulate': True, 'resolution': 2**side}
  return module('StyleConv', state_of(
      parameters, {'noise_const': None}, _forward_hooks=ordered({}), _init_args=(),
      _init_kwargs=kwargs, resolution=2**side, weight_maskUpdater=official_tensor(
          np.ones((1, 1, 3, 3), np.float32), parameter=False), **attributes))


def arrays_of(seed=0):
  """What the networks below hold, by PyTorch name."""
  rng = np.random.default_rng(seed)
  return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (
      ('w_avg', (6,)), ('mapping.fc0.weight', (4, 5)), ('mapping.fc0.bias', (4,)),
      ('synthesis.blocks.0.weight', (2, 3, 1, 2)), ('synthesis.blocks.1.strength', ()))}


def network(arrays, location='cpu', source='# source\n'):
  """A module tree in the official layout, ModuleList included."""
  scalar = Made('numpy.core.multiarray', 'scalar',
                (Made('numpy', 'dtype', ('f8', False, True),
                      state=(3, '<', None, None, None, -1, -1, 0)), struct.pack('<d', 0.5)))
  kwargs = Made('dnnlib.util', 'EasyDict', operation=pickle.NEWOBJ, items={
      'z_dim': 512, 'mapping_kwargs': {'num_layers': 8}, 'gain': scalar,
      'sizes': [1, (2, None)], 'on': True, 'device': Made('torch', 'device', ('cuda', 0)),
      'resolution': 2**1024, 'names': Made('builtins', 'set', (['a'],))})
  node = lambda name: official_tensor(arrays[name], location)  # noqa: E731
  blocks = Made('torch.nn.modules.container', 'ModuleList', operation=pickle.NEWOBJ, state=state_of(
      children={'0': layer(64, {'weight': node('synthesis.blocks.0.weight')}),
                '1': layer(128, {'strength': node('synthesis.blocks.1.strength')}),
                '2': layer(256), '3': layer(512), '4': layer(1024)}))
  parts = {kind: Made(f'torch.nn.modules.{package}', kind, operation=pickle.NEWOBJ,
                      state=state_of(eps=1e-5, normalized_shape=(180,), approximate='none'))
           for package, kind in (('activation', 'Softmax'), ('activation', 'GELU'),
                                 ('normalization', 'LayerNorm'), ('pooling', 'AdaptiveAvgPool2d'),
                                 ('container', 'Sequential'))}
  fc0 = module('FC', state_of({'weight': node('mapping.fc0.weight'),
                               'bias': node('mapping.fc0.bias')}, act_gain=scalar))
  return module('Generator', state_of(
      {'nothing': None}, {'w_avg': official_tensor(arrays['w_avg'], location, parameter=False)},
      {'mapping': module('MappingNet', state_of(children={'fc0': fc0}, num_layers=1)),
       'synthesis': module('SynthesisNet', state_of(children={'blocks': blocks, **parts}))},
      _init_args=(), _init_kwargs=kwargs), source)


def official(protocol=3, location='cpu', source='# source\n'):
  return dumps({'G': network(arrays_of(1), location, source), 'D': network(arrays_of(2), location),
                'G_ema': network(arrays_of(3), location, source), 'augment_pipe': None,
                'training_set_kwargs': Made('dnnlib.util', 'EasyDict', items={'resolution': 8})},
               protocol)


def state_dict(arrays, location='cpu'):
  """Tree and storages of a plain state dict with its `_metadata`."""
  items = {name: tensor(storage(str(i), array.ravel(), location), array.shape)
           for i, (name, array) in enumerate(arrays.items())}
  tree = Made('collections', 'OrderedDict', items=items,
              state={'_metadata': ordered({'': {'version': 1}})})
  return tree, {str(i): array.ravel() for i, array in enumerate(arrays.values())}


def small_file(kind, folder):
  """Bytes of a valid file that holds `arrays_of(3)` as G_ema."""
  if kind == 'official':
    return official()
  if kind == 'safetensors':
    save_file(arrays_of(3), folder / 'valid.safetensors')
    return (folder / 'valid.safetensors').read_bytes()
  return {'zip': archive, 'stream': stream}[kind](*state_dict(arrays_of(3)))


def assert_same(got, want):
  assert list(got) == list(want)
  for name, array in want.items():
    assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
    np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert got[name].flags.c_contiguous and got[name].flags.writeable
