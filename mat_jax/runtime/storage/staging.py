"""Copies on the disk of what is in a bucket, for libraries that know files only."""

from collections.abc import Iterator, Sequence
import contextlib
import os
import threading

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, disk, new_files


@contextlib.contextmanager
def local_copy(path: str, names: Sequence[str] | None = None) -> Iterator[str]:
  """A file or folder on the disk, for the time of a `with` block.

  Args:
    path: a path, which is the result itself; or an address in a bucket, of which the result is a
      copy in the folder for temporary files. Errors of users name the address and not the copy.
    names: of a folder in a bucket, what is copied: files, and folders with what is in them. None
      for everything.

  Yields:
    The path. It does not exist if there is nothing at the address.

  Raises:
    UnreachableError: something cannot be read.
  """
  if not buckets.is_address(path):
    yield path
    return
  path = buckets.absolute(path)
  with new_files.temporary_directory('mat-jax-copy-') as folder:
    local = os.path.join(folder, os.path.basename(path))
    with contextlib.suppress(disk.DamagedError):  # whoever opens it says what is missing
      disk.read(lambda: _download(path, local, names), path)
    try:
      yield local
    except UserError as error:
      error.args = (str(error).replace(local, path),)
      raise


def _download(path: str, local: str, names: Sequence[str] | None) -> None:
  found = buckets.walk(path)
  if found:
    buckets.download(path, local, [name for name in found if names is None or any(
        name == wanted or name.startswith(wanted + '/') for wanted in names)])
    return
  data = buckets.read_file(path)
  with open(local, 'wb') as file:
    file.write(data)


@contextlib.contextmanager
def added_to(folder: str) -> Iterator[str]:
  """A folder on the disk to write files into, for the time of a `with` block.

  Args:
    folder: a folder, which is the result itself; or an address in a bucket, to which the files
      are copied in the end.

  Yields:
    The folder on the disk.

  Raises:
    UserError: they cannot be copied.
  """
  if not buckets.is_address(folder):
    yield folder
    return
  with new_files.temporary_directory('mat-jax-new-') as local:
    yield local
    try:
      buckets.upload(local, folder, buckets.files_of(local))
    except OSError as error:
      raise UserError(f'{folder} cannot be written: {error.strerror}') from error


class Mirror:
  """A folder on the disk whose files are copied to a folder of a bucket.

  Attributes:
    local: the folder on the disk.
  """

  def __init__(self, address: str, local: str):
    """Begins with nothing copied.

    Args:
      address: folder in the bucket.
      local: the folder on the disk.
    """
    self.local = local
    self._address = address
    # Name -> size and time of the last change of what the bucket has.
    self._copied: dict[str, tuple[int, int]] = {}
    self._lock = threading.Lock()

  def pull(self, names: Sequence[str]) -> None:
    """Copies objects from the bucket; OSError if that fails."""
    buckets.download(self._address, self.local, names)
    self._copied |= {name: state for name, state in self._states().items() if name in names}

  def push(self) -> None:
    """Copies what has changed since the last time, and removes what is gone.

    Raises:
      OSError: that failed; the next time what is left of it is tried again.
    """
    with self._lock:
      states = self._states()
      for name in sorted(states):
        if self._copied.get(name) != states[name]:
          buckets.upload(self.local, self._address, [name])
          self._copied[name] = states[name]
      for name in sorted(self._copied.keys() - states.keys()):
        buckets.remove(os.path.join(self._address, name))
        del self._copied[name]

  def _states(self) -> dict[str, tuple[int, int]]:
    statuses = {name: os.stat(os.path.join(self.local, name))
                for name in buckets.files_of(self.local)}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()}
