"""Output that appears under its name when it is complete, or not at all.

A process that is ended from another thread (`mat_jax.runtime.sigterm`) removes incomplete output by
`discard_unfinished`; that needs no exception in the main thread, which might not get there.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import shutil
import tempfile
import threading
import time
from typing import BinaryIO

from absl import logging

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets

# The names that this process is writing under, and what guards them and the renaming.
_unfinished: set[str] = set()
_renaming = threading.RLock()
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
    if buckets.is_address(path):
      contents = io.BytesIO()
      yield contents
      buckets.write(path, contents.getvalue())
      return
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _partial(path) as partial:
      with open(partial, 'xb') as file:
        yield file
      with _renaming:
        os.replace(partial, path)


@contextlib.contextmanager
def new_directory(path: str, last: str = '') -> Iterator[str]:
  """Fills a folder beside its place and then moves it there.

  Args:
    path: the folder; it may exist if it is empty.
    last: file in it, or in a folder in it, that is copied into a bucket when all others are there.

  Yields:
    The folder to fill.

  Raises:
    UserError: it exists, or cannot be written. Nothing is left of it then.
  """
  occupied = UserError(f'{path} exists and is not an empty folder; remove it or choose another '
                       'output')
  with _writing(path):
    if buckets.is_address(path):
      if buckets.walk(path) or buckets.read(buckets.absolute(path)).data is not None:
        raise occupied
      with temporary_directory('mat-jax-new-') as local:
        yield local
        names = buckets.files_of(local)
        final = [name for name in names if f'/{name}'.endswith(f'/{last}')]
        buckets.upload(local, path, names, final[0] if last and final else '')
      return
    target = os.path.realpath(path)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
      raise occupied
    with _partial(target) as partial:
      os.makedirs(partial)
      yield partial
      with _renaming:
        os.rename(partial, target)


@contextlib.contextmanager
def replaced_directory(path: str) -> Iterator[str]:
  """Fills a folder beside its place and then puts it there instead of an old one.

  Args:
    path: the folder; one that exists is removed when the new one is complete.

  Yields:
    The folder to fill.

  Raises:
    UserError: it cannot be written. The old one stays then, in a bucket a part of it.
  """
  with _writing(path):
    if buckets.is_address(path):
      with temporary_directory('mat-jax-new-') as local:
        yield local
        names = buckets.files_of(local)
        buckets.upload(local, path, names)
        buckets.remove_folder(path, keep=names)
      return
    target = os.path.realpath(path)
    with _partial(target) as partial, _partial(target, 'old') as old:
      os.makedirs(partial)
      yield partial
      with _renaming:
        if os.path.isdir(target):
          os.rename(target, old)
        try:
          os.rename(partial, target)
        except OSError:
          if os.path.isdir(old):
            os.rename(old, target)
          raise
      shutil.rmtree(old, ignore_errors=True)  # nobody writes there


@contextlib.contextmanager
def temporary_directory(prefix: str) -> Iterator[str]:
  """A folder for the time of a `with` block, which `discard_unfinished` removes too.

  Args:
    prefix: of its name, in the folder for temporary files.

  Yields:
    The folder, which only this user can read.
  """
  path = os.path.realpath(tempfile.mkdtemp(prefix=prefix))
  _unfinished.add(path)
  try:
    yield path
  finally:
    shutil.rmtree(path, ignore_errors=True)
    _unfinished.discard(path)


def discard_unfinished() -> None:
  """Removes what this process has not completed, from any thread.

  Nothing is completed after that, and nobody comes to know of it: the process has to end.
  """
  _renaming.acquire(timeout=_DISCARD_SECONDS)  # for good
  for path in list(_unfinished):
    _remove(path)


@contextlib.contextmanager
def _partial(path: str, kind: str = 'partial') -> Iterator[str]:
  """A name beside a path, of which nothing stays behind."""
  name = f'{path}.{kind}-{os.getpid()}'
  _unfinished.add(name)
  try:
    yield name
  finally:
    with _renaming:
      _remove(name)
      _unfinished.discard(name)


def _remove(path: str) -> None:
  if os.path.isdir(path):
    discard(path)
  else:
    with contextlib.suppress(FileNotFoundError):
      os.remove(path)


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


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror or error}') from error
