"""Writes a state dict as `torch.save` does, without PyTorch.

The file is a zip archive of uncompressed entries: `data.pkl`, a pickle of an
OrderedDict of tensors, and `data/KEY` with the numbers of each. The pickle is
written operation by operation and refers to nothing but `OrderedDict`, the
function that rebuilds a tensor and `FloatStorage`, so that
`torch.load(weights_only=True)` takes it.
"""

from collections.abc import Iterable, Mapping
import io
import math
import pickle
import struct
from typing import Any, BinaryIO
import zipfile

import numpy as np

_ROOT = 'archive'  # torch takes any folder, as long as all entries share it
_ALIGNMENT = 64  # bytes; lets `torch.load(mmap=True)` use the data in place
_ENTRY_HEADER = 30  # bytes before an entry's name, see the zip specification
_PADDING_ID = 0x4246  # of the extra field that torch pads with


def write_state_dict(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes float32 tensors one by one, so that memory holds no second copy.

  Args:
    file: seekable binary file.
    arrays: C-contiguous float32 arrays by name.
  """
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
    _add(archive, 'data.pkl', state_dict_pickle(arrays))
    _add(archive, 'byteorder', b'little')
    for index, array in enumerate(arrays.values()):
      _add(archive, f'data/{index}', np.asarray(array, '<f4').data)
    _add(archive, 'version', b'3\n')


def state_dict_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
  """The pickle of an OrderedDict of tensors whose storages are '0', '1', ..."""
  out = io.BytesIO()
  out.write(pickle.PROTO + b'\x02')
  out.write(_empty_ordered_dict() + pickle.MARK)
  for index, (name, array) in enumerate(arrays.items()):
    out.write(_text(name) + _tensor(str(index), array.shape))
  out.write(pickle.SETITEMS + pickle.STOP)
  return out.getvalue()


def _tensor(key: str, shape: tuple[int, ...]) -> bytes:
  """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
  stride = [math.prod(shape[i + 1:]) for i in range(len(shape))]
  storage = _tuple([_text('storage'), _global('torch', 'FloatStorage'), _text(key), _text('cpu'),
                    _integer(math.prod(shape))]) + pickle.BINPERSID
  arguments = _tuple([storage, _integer(0), _tuple(map(_integer, shape)),
                      _tuple(map(_integer, stride)), pickle.NEWFALSE, _empty_ordered_dict()])
  return _global('torch._utils', '_rebuild_tensor_v2') + arguments + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
  return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def _empty_ordered_dict() -> bytes:
  return _global('collections', 'OrderedDict') + pickle.EMPTY_TUPLE + pickle.REDUCE


def _tuple(parts: Iterable[bytes]) -> bytes:
  return pickle.MARK + b''.join(parts) + pickle.TUPLE


def _text(value: str) -> bytes:
  data = value.encode()
  return pickle.BINUNICODE + struct.pack('<I', len(data)) + data


def _integer(value: int) -> bytes:
  if value < 1 << 31:
    return pickle.BININT + struct.pack('<i', value)
  return pickle.LONG1 + b'\x08' + struct.pack('<q', value)


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
  """Adds an entry whose data start at a multiple of `_ALIGNMENT`."""
  assert archive.fp is not None  # It is open.
  view = memoryview(data).cast('B')
  entry = zipfile.ZipInfo(f'{_ROOT}/{name}')
  entry.file_size = len(view)
  start = archive.fp.tell() + _ENTRY_HEADER + len(entry.filename) + 4
  padding = -start % _ALIGNMENT
  entry.extra = struct.pack('<HH', _PADDING_ID, padding) + b'Z' * padding
  with archive.open(entry, 'w') as stream:
    stream.write(view)
