"""Writes, removes and renames step directories in a bucket, which has no renaming.

A step directory is there when its `META` is: that is written when all else is complete, and
removed before all else. Readers need no other rule than on a disk.
"""

from collections.abc import Callable
import contextlib
import os
import shutil
import tempfile
import time

from absl import logging

from mat_jax.checkpoints.step_directories import META
from mat_jax.errors import UserError
from mat_jax.runtime.lease import has_ended
from mat_jax.runtime.storage import buckets, disk, new_files

# A step directory has this name as well until its successor is complete.
_REPLACED = '.replaced'
# Folders in which step directories are written: with the number of the process.
_TEMPORARY = 'mat-jax-checkpoint-'
# From then on a folder of a process that is not there is nobody's; in a container with other
# numbers of processes it might be.
_ABANDONED_SECONDS = 3600.0


def prepare(folder: str) -> None:
  """Ends saves and removals in a checkpoints folder that were cut off.

  Also removes what killed processes have left in the folder for temporary files.

  Only for whoever has the workdir's lease: the save of another one would look cut off.

  Raises:
    UserError: the folder cannot be read or written.
  """
  _remove_abandoned()
  try:
    for name in disk.listed(folder):  # in order: an older step is put back in a later turn
      path = os.path.join(folder, name)
      if name.endswith(_REPLACED):
        _put_back(path)
      elif name.isdigit() and not _has_meta(path):
        logging.warning('Removing %s, a save that was cut off.', path)
        buckets.remove_folder(path)
  except OSError as error:
    raise UserError(f'{folder} cannot be written: {error.strerror}') from error


def write(path: str, fill: Callable[[str], None]) -> None:
  """Writes a step directory, by way of the folder for temporary files.

  Args:
    path: its address. An older one stays until the new one is complete.
    fill: writes it into a folder, which it makes.

  Raises:
    OSError: it cannot be written. The older one stays then.
  """
  with new_files.temporary_directory(f'{_TEMPORARY}{os.getpid()}-') as temporary:
    local = os.path.join(temporary, os.path.basename(path))
    fill(local)
    replaced = path + _REPLACED
    if _has_meta(path):
      buckets.move(path, replaced, META)
    try:
      buckets.remove_folder(path)
      buckets.upload(local, path, buckets.files_of(local), META)
    except OSError:
      with contextlib.suppress(OSError):
        if disk.listed(replaced):
          _put_back(replaced)
      raise
    buckets.remove_folder(replaced, META)


def remove(path: str) -> None:
  """Removes a step directory, of which no reader finds a part; OSError if that fails."""
  buckets.remove_folder(path, META)


def rename(path: str, to: str) -> None:
  """Renames a step directory; OSError if that fails."""
  buckets.move(path, to, META)


def _remove_abandoned() -> None:
  for entry in os.scandir(tempfile.gettempdir()):
    pid = entry.name.removeprefix(_TEMPORARY).partition('-')[0]
    if not entry.name.startswith(_TEMPORARY) or not pid.isdigit():
      continue
    with contextlib.suppress(OSError):  # of another user, or removed meanwhile
      age = time.time() - entry.stat(follow_symlinks=False).st_mtime
      if age > _ABANDONED_SECONDS and has_ended(int(pid)):
        shutil.rmtree(entry.path)


def _put_back(replaced: str) -> None:
  """Removes a step directory that was replaced, or gives it back its name if it was not yet."""
  path = replaced.removesuffix(_REPLACED)
  if _has_meta(replaced) and not _has_meta(path):
    buckets.move(replaced, path, META)
  else:
    buckets.remove_folder(replaced, META)


def _has_meta(path: str) -> bool:
  return buckets.read(os.path.join(path, META)).data is not None
