"""Refuses addresses of buckets and servers where `os` would take them for local folders."""

from collections.abc import Collection, Iterable, Mapping
import re
from typing import Any

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets

# A single letter before the colon would be a drive of Windows.
_ADDRESS = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+)://')


def refuse(name: str, value: Any, in_bucket: Collection[str] = ()) -> None:
  """Raises if a setting holds an address instead of a path.

  Args:
    name: of the setting, for the message.
    value: text, a list, or a mapping of further settings; other types have no address.
    in_bucket: names of settings, as in messages, that may be addresses in buckets.

  Raises:
    UserError: it is, or contains, an address such as gs://bucket/runs.
  """
  if isinstance(value, str):
    found = _ADDRESS.match(value)
    if found and not (name in in_bucket and buckets.is_address(value)):
      raise UserError(f'{name} is {value}, but {found[1]}:// is not supported there; give a path '
                      f'on a disk{", or gs://BUCKET/NAME" if name in in_bucket else ""}, or one '
                      'where the bucket is mounted')
  elif isinstance(value, Mapping):
    for key, inner in value.items():
      refuse(f'{name}.{key}', inner, in_bucket)
  elif isinstance(value, Iterable) and not isinstance(value, bytes):
    for inner in value:
      refuse(name, inner, in_bucket)
