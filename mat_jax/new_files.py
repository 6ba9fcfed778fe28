"""Output that appears under its name when it is complete, or not at all."""

from collections.abc import Iterator
import contextlib
import os
import shutil
import time
from typing import BinaryIO

from absl import logging

from mat_jax.errors import UserError

_QUIET_SECONDS = 0.5  # late writes of TensorStore were seen within 0.06 s of a removal
_DISCARD_SECONDS = 10


@contextlib.contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
  """Writes a file beside its place and then moves it there.

  Args:
    path: the file; one that exists is replaced.

  Yields:
    The open file.

  Raises:
    UserError: it cannot be written. Nothing is left of it then.
  """
  with _writing(path):
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = _partial_name(path)
    try:
      with open(partial, 'xb') as file:
        yield file
      os.replace(partial, path)
    finally:
      with contextlib.suppress(FileNotFoundError):
        os.remove(partial)


@contextlib.contextmanager
def new_directory(path: str) -> Iterator[str]:
  """Fills a folder beside its place and then moves it there.

  Args:
    path: the folder; it may exist if it is empty.

  Yields:
    The folder to fill.

  Raises:
    UserError: it exists, or cannot be written. Nothing is left of it then.
  """
  with _writing(path):
    target = os.path.realpath(path)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
      raise UserError(f'{path} exists and is not an empty folder; remove it or choose another '
                      'output')
    partial = _partial_name(target)
    try:
      os.makedirs(partial)
      yield partial
      os.rename(partial, target)
    finally:
      discard(partial)


@contextlib.contextmanager
def replaced_directory(path: str) -> Iterator[str]:
  """Fills a folder beside its place and then puts it there instead of an old one.

  Args:
    path: the folder; one that exists is removed when the new one is complete.

  Yields:
    The folder to fill.

  Raises:
    UserError: it cannot be written. The old one stays then.
  """
  with _writing(path):
    target = os.path.realpath(path)
    partial, old = _partial_name(target), f'{target}.old-{os.getpid()}'
    try:
      os.makedirs(partial)
      yield partial
      if os.path.isdir(target):
        os.rename(target, old)
      try:
        os.rename(partial, target)
      except OSError:
        if os.path.isdir(old):
          os.rename(old, target)
        raise
    finally:
      discard(partial)
      shutil.rmtree(old, ignore_errors=True)


def discard(folder: str) -> None:
  """Removes a folder that failed to be filled, and what threads write there even after that.

  The writes that TensorStore has begun go on when another of them fails. A removal may meet
  them, or they make the folder anew; so it has to stay away for a while.

  Args:
    folder: it need not exist. Only if something is in it, others may be writing there.
  """
  quiet = _QUIET_SECONDS if os.path.isdir(folder) and os.listdir(folder) else 0
  shutil.rmtree(folder, ignore_errors=True)
  seen = start = time.monotonic()
  while time.monotonic() < seen + quiet:
    if os.path.lexists(folder):
      shutil.rmtree(folder, ignore_errors=True)
      seen = time.monotonic()
      if seen > start + _DISCARD_SECONDS:
        logging.warning('%s could not be removed.', folder)
        return
    time.sleep(0.02)


def _partial_name(path: str) -> str:
  return f'{path}.partial-{os.getpid()}'


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror or error}') from error
