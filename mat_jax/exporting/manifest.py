"""The description of an exported program: what is in its folder, and who can read it until when.

JAX promises (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees) that a
program runs on versions that are up to six months newer, and up to three weeks older, than the
version that exported it. What counts are the days on which the jaxlib packages were built. A
package does not tell its own day, so by default the day of the export takes its place: that day
is never earlier, hence the dates are bounds, and `counted_from` says so.
"""

import calendar
from collections.abc import Mapping
import dataclasses
import datetime
import hashlib
import json
import os
from typing import Any

from mat_jax.errors import UserError
from mat_jax.runtime.storage import disk
from mat_jax.runtime.storage.disk import DamagedError

NAME = 'manifest.json'
FORMAT = 'mat-jax program'
VERSION = 1
BACKWARD_MONTHS = 6
FORWARD_WEEKS = 3
_MAX_BYTES = 1 << 20  # an honest one has 4 KB


@dataclasses.dataclass(frozen=True)
class Readable:
  """Which releases of JAX can read a program.

  Attributes:
    released_from: the oldest, by its day of release.
    released_until: the newest.
    counted_from: which day the two are counted from, in words.
  """

  released_from: str
  released_until: str
  counted_from: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What the file says; days are ISO 8601.

  Attributes:
    library_version: of mat-jax.
    jax_version: that exported.
    jaxlib_version: that exported.
    calling_convention_version: of `jax.export`.
    exported_on: day of the export.
    readable_by_jax: see `Readable`.
    platforms: of 'cpu', 'cuda', 'rocm' and 'tpu'.
    model: resolution, width and mapping_layers of the generator.
    checkpoint: step, images_seen and sha256 (of the variables) of the checkpoint.
    entries: entry -> 'arguments' and 'result', each with dtype and shape.
    files: file in the folder -> 'bytes' and 'sha256'.
  """

  library_version: str
  jax_version: str
  jaxlib_version: str
  calling_convention_version: int
  exported_on: str
  readable_by_jax: Readable
  platforms: list[str]
  model: dict[str, Any]
  checkpoint: dict[str, Any]
  entries: dict[str, Any]
  files: dict[str, dict[str, Any]]

  def to_json(self) -> str:
    """The text of the file."""
    values = {'format': FORMAT, 'format_version': VERSION, **dataclasses.asdict(self)}
    return json.dumps(values, indent=2) + '\n'


def readable_by_jax(exported: datetime.date, released: datetime.date | None,
                    jaxlib_version: str) -> Readable:
  """The releases of JAX that are promised to read a program.

  Args:
    exported: day of the export.
    released: day of the release of the jaxlib that exported, if it is known.
    jaxlib_version: its version.
  """
  first = released or exported
  words = (f'the release of jaxlib {jaxlib_version}' if released else
           f'the export, as a bound: JAX counts from the earlier release of jaxlib '
           f'{jaxlib_version} (https://pypi.org/project/jaxlib/{jaxlib_version}/)')
  return Readable(
      released_from=(first - datetime.timedelta(weeks=FORWARD_WEEKS)).isoformat(),
      released_until=_months_later(first, BACKWARD_MONTHS).isoformat(), counted_from=words)


def _months_later(day: datetime.date, months: int) -> datetime.date:
  index = day.year * 12 + day.month - 1 + months
  year, month = index // 12, index % 12 + 1
  return datetime.date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def describe_file(data: bytes) -> dict[str, Any]:
  """Size and checksum of a file, as `Manifest.files` holds them."""
  return {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}


def read(folder: str) -> Manifest:
  """Reads the manifest of a program.

  Args:
    folder: that `export_program` wrote.

  Raises:
    UserError: there is none, or it is none of this format.
  """
  path = os.path.join(folder, NAME)
  return _parse(read_limited(path, f'{folder} is no exported program', _MAX_BYTES), path)


def read_limited(path: str, otherwise: str, limit: int) -> bytes:
  """Reads a small file, or one whose length is known.

  Args:
    path: the file.
    otherwise: start of the sentence if it is not there.
    limit: bytes that it may have.

  Raises:
    UserError: it is not there, cannot be read or is longer.
  """
  def load() -> bytes:
    with open(path, 'rb') as file:
      return file.read(limit + 1)

  try:
    data = disk.read(load, path)
  except DamagedError as error:
    raise UserError(f'{otherwise}: {path} cannot be read ({error}); give a complete folder that '
                    'the export wrote') from error
  if len(data) > limit:
    raise UserError(f'{path} is longer than {limit:,} bytes, so it is not what the export wrote; '
                    'copy it again or export again')
  return data


def _parse(data: bytes, path: str) -> Manifest:
  try:
    values = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is damaged (no JSON); copy it again or export again') from error
  if not isinstance(values, dict) or values.get('format') != FORMAT:
    raise UserError(f'{path} is not the manifest of a {FORMAT}; give a folder that the export '
                    'wrote')
  if values.get('format_version') != VERSION:
    raise UserError(f'{path} has format_version {values.get("format_version")!r:.20}, this version '
                    f'of mat-jax reads {VERSION}; export again, or install the mat-jax '
                    f'{values.get("library_version")!r:.20} that wrote it')
  found = {}
  for field in dataclasses.fields(Manifest):
    kind = _kind(field.type)
    if not isinstance(values.get(field.name), kind):
      raise UserError(f'{path} is damaged: {field.name} is missing or no {kind.__name__}; copy it '
                      'again or export again')
    found[field.name] = values[field.name]
  found['readable_by_jax'] = _readable(found['readable_by_jax'], path)
  return Manifest(**found)


def _kind(annotation: Any) -> type:
  """The type in JSON of a field."""
  if annotation is Readable:
    return dict
  return getattr(annotation, '__origin__', annotation)


def _readable(values: Mapping[str, Any], path: str) -> Readable:
  names = [field.name for field in dataclasses.fields(Readable)]
  if any(not isinstance(values.get(name), str) for name in names):
    raise UserError(f'{path} is damaged: readable_by_jax lacks one of {", ".join(names)}; copy it '
                    'again or export again')
  return Readable(**{name: values[name] for name in names})
