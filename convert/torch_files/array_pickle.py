"""Reads pickles of NumPy arrays without running anything in them."""

import math
import os
from typing import Any

import numpy as np

from convert.torch_files import limits
from convert.torch_files.file_window import Blob, FormatError, Window
from convert.torch_files.safe_pickle import Call, Global, load
from mat_jax.errors import UserError

# NumPy 1 and 2 spell the module differently.
_RECONSTRUCT = {'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct'}
_ALLOWED = frozenset({*_RECONSTRUCT, 'numpy.ndarray', 'numpy.dtype'})
# Type codes as NumPy writes them: bool, floats, signed and unsigned integers.
_NUMERIC = frozenset(
    {'b1', 'f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8'})


def read_array_pickle(path: str) -> dict[str, Any]:
  """Reads a pickle of nested dicts of numeric NumPy arrays; nothing in it is run.

  Args:
    path: the file.

  Returns:
    The dict, with arrays of their own.

  Raises:
    UserError: the file is missing or damaged, or holds anything else.
  """
  try:
    with open(path, 'rb') as file:
      tree = load(Window(file, 0, os.fstat(file.fileno()).st_size), _ALLOWED)
      if not isinstance(tree, dict):
        raise FormatError('is not a dict of arrays')
      return _arrays(tree)
  except FormatError as error:
    raise UserError(f'{path} {error}.') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror or error}.') from error


def numpy_dtype(node: Any) -> np.dtype:
  """The type that a `numpy.dtype` in a pickle describes; FormatError if it is no number."""
  match node:
    case Call('numpy.dtype', (str(code), *_), (int(), '<' | '>' | '|' | '=' as order, *_)) if (
        code in _NUMERIC):
      return np.dtype(code).newbyteorder(order)
  raise FormatError('has a NumPy type that is no number')


def _arrays(node: Any, depth: int = 0) -> Any:
  """The dicts and arrays that a tree of `convert.torch_files.safe_pickle` describes."""
  if depth > limits.DEPTH:
    raise FormatError('nests its dicts too deeply')
  if isinstance(node, dict):
    return {name: _arrays(value, depth + 1) for name, value in node.items()}
  match node:
    case Call(str(callee), (Global('numpy.ndarray'), *_),
              (int(), tuple(shape), Call('numpy.dtype') as dtype, bool(fortran), Blob() as data)
              ) if callee in _RECONSTRUCT:
      return _array(shape, numpy_dtype(dtype), fortran, data)
  raise FormatError('holds something other than dicts of numeric arrays')


def _array(shape: tuple[Any, ...], dtype: np.dtype, fortran: bool, data: Blob) -> np.ndarray:
  # The size is checked before the bytes are read, so a false shape allocates nothing.
  if len(shape) > limits.DIMENSIONS:
    raise FormatError(f'holds an array of more than {limits.DIMENSIONS} dimensions')
  if not all(type(side) is int and 0 <= side < limits.SIZE for side in shape) or (
      math.prod(shape) * dtype.itemsize != data.length):
    raise FormatError('holds an array of another size than it says')
  data.file.seek(data.start)
  array = np.frombuffer(data.file.read(data.length), dtype)
  return array.reshape(shape, order='F' if fortran else 'C').astype(dtype.newbyteorder('='))
