"""Reads and writes `.safetensors` files."""

from collections.abc import Mapping
import json
import math
import struct
from typing import Any, BinaryIO

import numpy as np

from convert.torch_files.file_window import FormatError, brief

_DTYPES = {'F16', 'BF16', 'F32', 'F64', 'I8', 'I16', 'I32', 'I64', 'U8', 'U16', 'U32', 'U64',
           'BOOL', 'C64'}


def is_safetensors(file: BinaryIO) -> bool:
  """Whether an open file starts like one; leaves it at its start."""
  head = file.read(9)
  file.seek(0)
  # A header of less than 4 GiB in JSON; no pickle starts with such a frame.
  return len(head) == 9 and head[4:] == b'\0\0\0\0{'


def read(path: str) -> dict[str, np.ndarray]:
  """Reads all arrays of a file.

  Args:
    path: the file.

  Returns:
    The arrays by name, in the dtypes of the file.

  Raises:
    FormatError: the file is damaged, empty or holds an unsupported type.
  """
  import safetensors  # what reads other files can do without it

  arrays = {}
  try:
    # Reading, not mapping: the pages of a map would count as memory a second time.
    with safetensors.safe_open(path, framework='numpy', backend='pread') as file:
      for name in file.keys():
        dtype = file.get_slice(name).get_dtype()
        if dtype not in _DTYPES:
          raise FormatError(f'has a tensor {name!r:.100} of the unsupported type {dtype}')
        arrays[name] = file.get_tensor(name)
  except safetensors.SafetensorError as error:
    raise FormatError(f'is a damaged safetensors file ({brief(error)})') from error
  if not arrays:
    raise FormatError('has a network without tensors')
  return arrays


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes float32 arrays one by one, so that memory holds no second copy.

  Args:
    file: where to.
    arrays: C-contiguous float32 arrays by name.
  """
  header: dict[str, dict[str, Any]] = {'__metadata__': {'format': 'pt'}}
  end = 0
  for name, array in arrays.items():
    start, end = end, end + 4 * math.prod(array.shape)
    header[name] = {'dtype': 'F32', 'shape': array.shape, 'data_offsets': (start, end)}
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # the data are to be aligned
  file.write(struct.pack('<Q', len(text)) + text)
  for array in arrays.values():
    file.write(np.asarray(array, '<f4').data)
