"""Data of a bucket in the user's cache folder, for libraries that read files again and again.

What is there is compared with the bucket once in a process, object by object: the server is asked
for the contents of those only that have been written since. A data set of some shards costs some
requests, a folder of loose pictures one for each.
"""

import functools
import json
import os
from typing import Any

from absl import logging
import filelock
import platformdirs

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, new_files

# Requests at a time: most contents are not sent again.
_AT_A_TIME = 32
_FOLDER = 'buckets'


def local_path(path: str) -> str:
  """A path itself, or the cached copy of a file or folder in a bucket.

  Args:
    path: a path, or an address in a bucket.

  Returns:
    A path. It does not exist if there is nothing at the address.

  Raises:
    UserError: the bucket cannot be read, or the copy not be written.
  """
  return _cached(buckets.absolute(path)) if buckets.is_address(path) else path


def existing_local_path(path: str) -> str:
  """Like `local_path`, of what has to be there: UserError if nothing is at the address."""
  local = local_path(path)
  if local != path and not os.path.exists(local):
    raise UserError(f'there is nothing at {path}; give the address of a file or of a folder with files')
  return local


@functools.lru_cache(maxsize=64)
def _cached(address: str) -> str:
  local = os.path.join(platformdirs.user_cache_dir('mat-jax'), _FOLDER,
                       *address.split('://', 1)[1].split('/'))
  try:
    os.makedirs(os.path.dirname(local), exist_ok=True)
    with filelock.FileLock(f'{local}.lock'):
      _update(address, local)
  except OSError as error:
    raise UserError(f'{address} cannot be copied to {local}: {error.strerror or error}; see to the '
                    'credentials, or make room in the cache folder') from error
  return local


def _update(address: str, local: str) -> None:
  """Makes the copy what the bucket has, and remembers the generations of the objects."""
  names = buckets.walk(address)
  record = f'{local}.generations'
  known = _known(record)
  if not names and buckets.read(address).data is not None:
    folder, target = os.path.dirname(address), os.path.dirname(local)
    names = [os.path.basename(address)]
  else:
    folder, target = address, local
    for name in set(buckets.files_of(local)) - set(names):
      os.remove(os.path.join(local, name))
  known = {name: known[name] for name in names
           if name in known and os.path.isfile(os.path.join(target, name))}
  copied = 0
  for name, data, generation in buckets.read_changed(folder, names, known, _AT_A_TIME):
    with new_files.new_file(os.path.join(target, name)) as file:
      file.write(data)
    known[name] = generation
    copied += 1
  if copied:
    logging.info('Copied %d of %d files of %s to %s.', copied, len(names), address, local)
  with new_files.new_file(record) as file:
    file.write(json.dumps(
        {name: generation.hex() for name, generation in known.items()}).encode())


def _known(path: str) -> dict[str, bytes]:
  """The generations of a file that `_update` wrote; none if it is something else."""
  try:
    with open(path, encoding='utf-8') as file:
      found: Any = json.load(file)
    return {name: bytes.fromhex(generation) for name, generation in found.items()}
  except (OSError, ValueError, AttributeError, TypeError):
    return {}
