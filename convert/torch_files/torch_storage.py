"""The storages of `torch.save` files, in streams and zip archives.

Both formats hold a pickle in which tensors refer to storages by persistent ids.
The functions here return that pickle's tree with a `Storage` for every id; its
bytes stay in the file until they are asked for.
"""

from collections.abc import Callable, Collection, Iterator
import contextlib
import dataclasses
import io
import math
import struct
from typing import Any, BinaryIO, NamedTuple, cast
import zipfile

import ml_dtypes
import numpy as np

from convert.torch_files import limits
from convert.torch_files.file_window import Blob, FormatError, Window, brief
from convert.torch_files.safe_pickle import Global, load

MAGIC_NUMBER = 0x1950a86a20f9469cfc6c  # first pickle of the older torch.save format

_STREAM_VERSION = 1001
_ENCRYPTED = 1  # flag of a zip entry

DTYPES = {
    name: np.dtype(code) for name, code in {
        'float16': '<f2', 'bfloat16': ml_dtypes.bfloat16, 'float32': '<f4', 'float64': '<f8',
        'int8': 'i1', 'int16': '<i2', 'int32': '<i4', 'int64': '<i8', 'uint8': 'u1',
        'uint16': '<u2', 'uint32': '<u4', 'uint64': '<u8', 'bool': '?',
        'complex64': '<c8', 'complex128': '<c16'}.items()}
STORAGES = {
    f'torch.{name}Storage': DTYPES[dtype] for name, dtype in {
        'Half': 'float16', 'BFloat16': 'bfloat16', 'Float': 'float32', 'Double': 'float64',
        'Char': 'int8', 'Short': 'int16', 'Int': 'int32', 'Long': 'int64', 'Byte': 'uint8',
        'Bool': 'bool', 'ComplexFloat': 'complex64', 'ComplexDouble': 'complex128'}.items()}
STORAGES['torch.storage.UntypedStorage'] = DTYPES['uint8']


@dataclasses.dataclass(eq=False)
class Storage:
  """Numbers in the file, shared by the tensors that view them.

  Attributes:
    dtype: type of one number.
    nbytes: length of the whole.
    read: gives `count` bytes from `start` as uint8 [count]; None until the place in
      the file is known.
  """

  dtype: np.dtype
  nbytes: int
  read: Callable[[int, int], np.ndarray] | None = None


class View(NamedTuple):
  """A strided view of a storage; offset and strides count numbers, not bytes."""

  storage: Storage
  dtype: np.dtype
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]

  @property
  def span(self) -> int:
    """Numbers from the first to the last, at least 1."""
    return 1 + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True) if n)


def _storage_of(persistent_id: Any) -> tuple[str, Storage]:
  """Key and storage, not yet located, of a torch.save persistent id."""
  match persistent_id:
    case ('storage', Global(kind), str(key), str(), int(count), *view) if (
        kind in STORAGES and count >= 0 and view in ([], [None])):
      return key, Storage(STORAGES[kind], count * STORAGES[kind].itemsize)
  raise FormatError('has a persistent id that names no storage of torch.save')


def _file_reader(blob: Blob) -> Callable[[int, int], np.ndarray]:
  def read(start: int, count: int) -> np.ndarray:
    data = np.empty(count, np.uint8)
    blob.file.seek(blob.start + start)
    # What all binary files have and `BinaryIO` lacks.
    if cast(io.BufferedIOBase, blob.file).readinto(data.data) != count:
      raise FormatError('ends too early (is the download complete?)')
    return data
  return read


def read_stream(blob: Blob, allowed: Collection[str]) -> Any:
  """Reads the structure of the older format of torch.save.

  Args:
    blob: five pickles, then the storages.
    allowed: globals that the tree may refer to, as `module.name`.

  Returns:
    The tree, with `Storage`s.

  Raises:
    FormatError: the stream is damaged or another one.
  """
  window = Window(blob.file, blob.start, blob.start + blob.length)
  storages: dict[str, Storage] = {}

  def persistent(persistent_id: Any) -> Storage:
    key, storage = _storage_of(persistent_id)
    known = storages.setdefault(key, storage)
    if (known.dtype, known.nbytes) != (storage.dtype, storage.nbytes):
      raise FormatError(f'describes its storage {key!r:.100} in two ways')
    return known

  magic, version, system = (load(window, ()) for _ in range(3))
  if magic != MAGIC_NUMBER or version != _STREAM_VERSION:
    raise FormatError('has a storage in a format that torch.save does not write')
  if not isinstance(system, dict) or system.get('little_endian') is not True:
    raise FormatError('was written on a big-endian machine, which is not supported')
  tree = load(window, allowed, persistent)
  keys = load(window, ())
  if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
    raise FormatError('has a damaged list of storages')
  if sorted(keys) != sorted(storages):
    raise FormatError('lacks storages that it refers to, or has others')
  for key in keys:
    storage = storages[key]
    count = int.from_bytes(window.read(8), 'little', signed=True)
    if count * storage.dtype.itemsize != storage.nbytes:
      raise FormatError(f'has a storage {key!r:.100} of another size than it says')
    storage.read = _file_reader(window.skip(storage.nbytes))
  return tree


@contextlib.contextmanager
def _zip_errors() -> Iterator[None]:
  # What zipfile raises for damaged directories, headers and checksums.
  try:
    yield
  except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, ValueError,
          OverflowError, IndexError) as error:
    raise FormatError(f'is a damaged zip archive ({brief(error)})') from error


def _zip_reader(archive: zipfile.ZipFile,
                entry: zipfile.ZipInfo) -> Callable[[int, int], np.ndarray]:
  def read(start: int, count: int) -> np.ndarray:
    data = np.empty(count, np.uint8)
    done = 0
    with _zip_errors(), cast(zipfile.ZipExtFile, archive.open(entry)) as stream:
      if start:
        stream.seek(start)
      while done < count:  # in pieces, because zipfile reads each into a copy
        length = stream.readinto(data.data[done:done + (1 << 20)])
        if not length:
          raise EOFError('an entry is too short')
        done += length
    return data
  return read


def read_archive(file: BinaryIO, allowed: Collection[str]) -> Any:
  """Reads the structure of the zip format of torch.save.

  Args:
    file: the archive: */data.pkl, */data/KEY and perhaps */byteorder.
    allowed: globals that its pickle may refer to, as `module.name`.

  Returns:
    The pickle's tree, with `Storage`s.

  Raises:
    FormatError: the archive is damaged or another one.
  """
  with _zip_errors():
    archive = zipfile.ZipFile(file)  # has nothing to close: the file is the caller's
  entries = {entry.filename: entry for entry in archive.infolist()}
  pickles = [name for name in entries if name == 'data.pkl' or name.endswith('/data.pkl')]
  if len(pickles) != 1:
    raise FormatError('is a zip archive, but not one of torch.save')
  prefix = pickles[0].removesuffix('data.pkl')
  storages: dict[str, Storage] = {}

  def entry_of(name: str) -> zipfile.ZipInfo:
    entry = entries.get(prefix + name)
    if entry is None:
      raise FormatError(f'lacks its entry {name!r:.100}')
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
      raise FormatError('is a compressed or encrypted zip archive, which torch.save never '
                        'writes')
    return entry

  def read(name: str) -> bytes:
    entry = entry_of(name)
    if entry.file_size > limits.PICKLE:
      raise FormatError(f'has an entry {name!r:.100} of more than {limits.PICKLE} bytes')
    return _zip_reader(archive, entry)(0, entry.file_size).tobytes()

  def persistent(persistent_id: Any) -> Storage:
    key, storage = _storage_of(persistent_id)
    entry = entry_of(f'data/{key}')
    if entry.file_size != storage.nbytes:
      raise FormatError(f'has a storage {key!r:.100} of another size than it says')
    storage.read = _zip_reader(archive, entry)
    known = storages.setdefault(key, storage)
    return known if known.dtype == storage.dtype else storage

  if prefix + 'byteorder' in entries and read('byteorder') != b'little':
    raise FormatError('was written on a big-endian machine, which is not supported')
  data = read('data.pkl')
  return load(Window(io.BytesIO(data), 0, len(data)), allowed, persistent)


def read_view(name: str, view: View) -> np.ndarray:
  """Copies a tensor out of the file.

  Args:
    name: what errors call it.
    view: its place.

  Returns:
    Array [*size] of its own.

  Raises:
    FormatError: the tensor reaches beyond its storage.
  """
  storage, dtype, offset, size, stride = view
  count = math.prod(size)
  if not count:
    return np.empty(size, dtype)
  if storage.read is None or (offset + view.span) * dtype.itemsize > storage.nbytes:
    raise FormatError(f'has a tensor {name!r:.100} that reaches beyond its storage')
  data = storage.read(offset * dtype.itemsize, view.span * dtype.itemsize)
  numbers = data != 0 if dtype == np.bool_ else data.view(dtype)
  strided = np.lib.stride_tricks.as_strided(numbers, size, [s * dtype.itemsize for s in stride])
  if view.span == count and strided.flags.c_contiguous:
    return numbers.reshape(size)
  return strided.copy()
