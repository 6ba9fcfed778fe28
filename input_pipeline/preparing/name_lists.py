"""Lists of pictures in text files: which ones are held out as a test set, and which left out."""

from collections.abc import Iterable, Sequence
import os
import pathlib

from mat_jax.errors import UserError


def read(path: str) -> tuple[str, ...]:
  """Reads a list of names, one a line; empty lines and those that start with # do not count.

  Args:
    path: a UTF-8 text file.

  Raises:
    UserError: a file that is missing or no text, or without names.
  """
  try:
    # File names are bytes; what is no UTF-8 has to find its file all the same.
    with open(path, encoding='utf-8', errors='surrogateescape') as file:
      lines = [line.strip() for line in file]
  except OSError as error:
    raise UserError(f'the list {path!r} cannot be read ({error.strerror}); give a text file with '
                    'a name on each line') from error
  names = tuple(line for line in lines if line and not line.startswith('#'))
  if not names:
    raise UserError(f'the list {path!r} names nothing; write a name on each line')
  return names


def matches(name: str, patterns: Iterable[str]) -> bool:
  """Whether a list names a picture.

  Args:
    name: of the picture: a relative POSIX path.
    patterns: ends of paths, with or without the ending of the file, where `*`, `?` and `[...]`
      stand for parts of a folder's or file's name: 'mage', 'humans/mage.png', 'monsters/*'.
  """
  forms = (name, os.path.splitext(name)[0])
  paths = [pathlib.PurePosixPath(form) for form in forms]
  return any(pattern in forms or any(_match(path, pattern) for path in paths)
             for pattern in patterns)


def _match(path: pathlib.PurePosixPath, pattern: str) -> bool:
  # Of '.' no part is left, which pathlib refuses.
  return bool(pathlib.PurePosixPath(pattern).parts) and path.match(pattern)


def check(patterns: Iterable[str], names: Sequence[str]) -> None:
  """Raises a UserError for a pattern that no name matches: a test set must not shrink silently."""
  for pattern in patterns:
    if not any(matches(name, (pattern,)) for name in names):
      raise UserError(f'{pattern!r} of a list of names matches none of the {len(names)} images; '
                      'correct it or take it out')
