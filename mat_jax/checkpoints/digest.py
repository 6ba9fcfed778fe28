"""One checksum for the variables of a network, however they are stored."""

from collections.abc import Mapping
import hashlib
from typing import Any

from flax import traverse_util
import numpy as np


def variables_digest(variables: Mapping[str, Any]) -> str:
  """SHA-256 of the paths, dtypes, shapes and values of variables.

  Args:
    variables: tree of arrays, as of `EmaCheckpoint`.

  Returns:
    64 hexadecimal digits. The order in the tree and the devices make no difference.
  """
  digest = hashlib.sha256()
  flat = traverse_util.flatten_dict(variables, sep='/')
  for name in sorted(flat):
    array = np.ascontiguousarray(flat[name])
    little = array.astype(array.dtype.newbyteorder('<'), copy=False)
    digest.update(f'{name} {array.dtype.name} {array.shape}\n'.encode())
    digest.update(little.tobytes())
  return digest.hexdigest()
