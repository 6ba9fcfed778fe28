"""The genres of WikiArt and how a user names one."""

from collections import Counter
from collections.abc import Iterable, Mapping
import os
import pathlib

from mat_jax.errors import UserError

# The classes of ArtGAN's tables (Tan et al., 2019); huggan/wikiart has them too.
ARTGAN = dict(enumerate((
    'abstract_painting', 'cityscape', 'genre_painting', 'illustration', 'landscape',
    'nude_painting', 'portrait', 'religious_painting', 'sketch_and_study', 'still_life')))
HUGGAN = {**ARTGAN, 10: 'unknown_genre'}


def read_classes(path: pathlib.Path) -> dict[int, str]:
  """Reads a file of rows `6 portrait`; UserError for others."""
  classes = {}
  for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
    number, _, name = line.strip().partition(' ')
    if not number:
      continue
    if not number.isdecimal() or not name.strip():
      raise UserError(f'{os.fspath(path)!r} has the row {line!r} instead of `number name`')
    classes[int(number)] = _normal(name)
  return classes


def find(genre: str | int, known: Mapping[int, str], location: str) -> int | None:
  """Finds the number of a genre.

  Args:
    genre: name, whatever its case and its separators, or number; '' for all.
    known: number -> name.
    location: where it is looked for.

  Returns:
    The number; None for all.

  Raises:
    UserError: there is no such genre.
  """
  text = _normal(str(genre))
  if not text:
    return None
  for number, name in known.items():
    if text in (str(number), _normal(name)):
      return number
  raise UserError(f'{location!r} has no genre {str(genre)!r}; choose one of '
                  f'{", ".join(f"{name} ({number})" for number, name in sorted(known.items()))}')


def none_message(
    genre: str | int, found: Iterable[int], known: Mapping[int, str], location: str) -> str:
  """Says that no image has the genre, and which ones there are."""
  counts = sorted(Counter(found).items())
  there = ', '.join(f'{count} of {known.get(number, number)}' for number, count in counts)
  wanted = f'image of the genre {str(genre)!r}' if str(genre) else 'image'
  return (f'{location!r} has no {wanted}, but {there or "no rows at all"}; set '
          '--config.data.genre to one that is there')


def _normal(name: str) -> str:
  return '_'.join(name.strip().lower().replace('-', ' ').replace('_', ' ').split())
