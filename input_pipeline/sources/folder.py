"""Images in a folder, all of them or those that a table of ArtGAN names."""

from collections.abc import Sequence
import csv
import os
import pathlib

from absl import logging

from input_pipeline.sources import genres
from input_pipeline.sources.source import Unsplit, check_names
from mat_jax.errors import UserError
from mat_jax.runtime import images

# The genre tables of ArtGAN's WikiArt: rows `Style/artist_title-year.jpg,6`.
TABLES = ('genre_train.csv', 'genre_val.csv')
_CLASSES = 'genre_class.txt'
# Folders beside the tables that the images may have been unpacked into.
_SUBFOLDERS = ('', 'wikiart', 'images')
_MAX_MISSING = 0.01


class FolderSource(Unsplit):
  """Image files in a folder."""

  def __init__(self, location: str, root: pathlib.Path, names: Sequence[str]):
    """Takes the files of a folder.

    Args:
      location: the folder, as the user wrote it.
      root: the folder.
      names: POSIX paths relative to it, sorted.
    """
    self.location = location
    self._root = root
    self._names = names

  def __len__(self) -> int:
    return len(self._names)

  def name(self, index: int) -> str:
    return self._names[index]

  def read(self, index: int) -> bytes:
    with open(self._root / self._names[index], 'rb') as file:
      return images.read_limited(file)


def artgan(location: str, root: pathlib.Path, files: Sequence[str], genre: str) -> FolderSource:
  """Opens ArtGAN's WikiArt: style folders with tables of genres.

  Args:
    location: the folder, as the user wrote it.
    root: the folder.
    files: what it holds, see `list_files`.
    genre: name or number of a genre, '' for all images in the tables.

  Returns:
    The images that both tables give that genre, where they exist.

  Raises:
    UserError: a row that is none or leads out of the folder, an unknown genre, a
      genre without images, more than 1 % of the files missing.
  """
  known = genres.ARTGAN
  if _CLASSES in files:
    known = genres.read_classes(root / _CLASSES)
  rows: dict[str, int] = {}
  for table in TABLES:
    if table in files:
      rows |= _read_table(root / table)
  number = genres.find(genre, known, location)
  wanted = sorted(name for name, row_genre in rows.items() if number in (None, row_genre))
  if not wanted:
    raise UserError(genres.none_message(genre, rows.values(), known, location))
  check_names(wanted, location)
  found = set(files)
  prefix = max(_SUBFOLDERS, key=lambda folder: sum(
      _join(folder, name) in found for name in wanted))
  present = [_join(prefix, name) for name in wanted if _join(prefix, name) in found]
  missing = [name for name in wanted if _join(prefix, name) not in found]
  if len(missing) > _MAX_MISSING * len(wanted):
    raise UserError(
        f'{len(missing)} of {len(wanted)} images that the tables in {location!r} name are not '
        f'there, {missing[0]!r} for one; unpack the images beside the tables')
  if missing:
    logging.warning('%d images that the tables in %s name are not there, %s for one.',
                    len(missing), location, missing[0])
  return FolderSource(location, root, present)


def _join(folder: str, name: str) -> str:
  return f'{folder}/{name}' if folder else name


def _read_table(path: pathlib.Path) -> dict[str, int]:
  """Reads rows `path,class`; a comma in an unquoted path is part of it."""
  rows = {}
  # File names are bytes; what is no UTF-8 has to find its file all the same.
  with open(path, encoding='utf-8', errors='surrogateescape', newline='') as file:
    try:
      for i, row in enumerate(csv.reader(file)):
        *name, number = row or ['', '']
        if number.strip().isdecimal() and name:
          rows[','.join(name).strip()] = int(number)
        elif row and i:  # the first row may be a header
          raise UserError(
              f'row {i + 1} of {os.fspath(path)!r} is not `path,class` with a whole number: {row}')
    except csv.Error as error:
      raise UserError(f'{os.fspath(path)!r} is not a table of `path,class` ({error})') from error
  return rows
