"""One run at a time in a workdir."""

from collections.abc import Iterator
import contextlib
import os
import socket

from absl import logging

from mat_jax.errors import UserError
from mat_jax.runtime import lease
from mat_jax.runtime.storage import buckets

try:
  import fcntl
except ImportError:  # On Windows.
  fcntl = None  # type: ignore[assignment]  # A module is declared, and there is none.

LOCK = '.lock'


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[None]:
  """Keeps other runs out of a workdir.

  The kernel lets go of the lock when the process ends, even by SIGKILL; the file stays, as
  removing it would let two runs lock two files of that name. Where there are no locks, a
  warning takes their place. In a bucket it is a lease, which expires.

  Args:
    workdir: made if it is missing; a folder, or an address in a bucket.

  Raises:
    UserError: another run has it, or it cannot be written.
  """
  if buckets.is_address(workdir):
    with lease.hold(os.path.join(workdir, LOCK), workdir):
      yield
    return
  try:
    os.makedirs(workdir, exist_ok=True)
    # Programs that are started do not inherit it. A forked process would, and keep the lock
    # beyond a SIGKILL of this one; training forks none.
    file = os.open(os.path.join(workdir, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    raise UserError(f'the workdir {workdir} cannot be written: {error.strerror}; choose another '
                    'one with --workdir') from error
  try:
    _lock(file, workdir)
    yield
  finally:
    os.close(file)


def _lock(file: int, workdir: str) -> None:
  if fcntl is None:
    _warn(workdir, 'this system has none')
    return
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.read(file, 1000).decode(errors='replace').strip()
    raise UserError(f'another run, {holder or "of unknown name"}, is using the workdir {workdir}; '
                    'stop it, or choose another one with --workdir') from error
  except OSError as error:  # FUSE mounts such as Drive have none.
    _warn(workdir, error.strerror)
    return
  # The lock holds without the name, as on a full disk.
  with contextlib.suppress(OSError):
    os.ftruncate(file, 0)
    os.pwrite(file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)


def _warn(workdir: str, reason: str | None) -> None:
  logging.warning('The workdir %s cannot be locked (%s); take care that no other run uses it.',
                  workdir, reason)
