"""Refuses addresses of buckets and servers, which `os` would take for local folders."""

from collections.abc import Iterable, Mapping
import re
from typing import Any

from mat_jax.errors import UserError

# A single letter before the colon would be a drive of Windows.
_ADDRESS = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+)://')


def refuse(name: str, value: Any) -> None:
  """Raises if a setting holds an address instead of a path.

  Args:
    name: of the setting, for the message.
    value: text, a list, or a mapping of further settings; other types have no address.

  Raises:
    UserError: it is, or contains, an address such as gs://bucket/runs.
  """
  if isinstance(value, str):
    if found := _ADDRESS.match(value):
      raise UserError(f'{name} is {value}, but {found[1]}:// is not supported; give a path on a '
                      'disk, or one where the bucket is mounted')
  elif isinstance(value, Mapping):
    for key, inner in value.items():
      refuse(f'{name}.{key}', inner)
  elif isinstance(value, Iterable) and not isinstance(value, bytes):
    for inner in value:
      refuse(name, inner)
