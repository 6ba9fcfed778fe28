"""Artists and licences of the pictures of a data set."""

from collections.abc import Iterable, Sequence
import csv
from typing import Any

from input_pipeline.preparing import name_lists
from mat_jax.errors import UserError

_FILE, _FIELDS = 'file', ('artist', 'license', 'source')

# Which pictures, see `name_lists.matches`, and what a table says of them.
Row = tuple[str, tuple[tuple[str, str], ...]]


def read(path: str) -> tuple[Row, ...]:
  """Reads a table of artists and licences.

  Args:
    path: a UTF-8 CSV file with a header: `file`, a name or pattern as of `name_lists.matches`,
      and one or more of `artist`, `license` and `source`. Other columns do not matter.

  Raises:
    UserError: a file that is missing or not such a table.
  """
  try:
    with open(path, encoding='utf-8', errors='surrogateescape', newline='') as file:
      reader = csv.DictReader(file)
      rows = list(reader)
      header = reader.fieldnames or ()
  except (OSError, csv.Error) as error:
    raise UserError(f'the table {path!r} cannot be read '
                    f'({getattr(error, "strerror", None) or error}); give a CSV file') from error
  fields = [field for field in _FIELDS if field in header]
  if _FILE not in header or not fields:
    raise UserError(f'the table {path!r} has no columns {_FILE!r} and one of '
                    f'{", ".join(_FIELDS)}; give it a header with those')
  return tuple(
      (row[_FILE].strip(), tuple((field, (row[field] or '').strip()) for field in fields))
      for row in rows if (row[_FILE] or '').strip())


def collect(names: Iterable[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Puts pictures of the same artist and licence together, for a report.

  Args:
    names: of the pictures.
    rows: of the table; the first that names a picture counts.

  Returns:
    The fields of the table with the list `names`; pictures that no row names come last, with
    `names` alone. Empty without a table.
  """
  if not rows:
    return []
  found: dict[tuple[tuple[str, str], ...], list[str]] = {}
  for name in names:
    fields = next((fields for pattern, fields in rows if name_lists.matches(name, (pattern,))), ())
    found.setdefault(fields, []).append(name)
  unknown = found.pop((), None)
  entries = [{**dict(fields), 'names': group} for fields, group in found.items()]
  return entries + ([{'names': unknown}] if unknown else [])
