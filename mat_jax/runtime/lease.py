"""A lease on a folder in a bucket, where no kernel lets go of a lock when a process ends.

The lease is an object that its owner writes anew at short intervals. It has expired when it stays
as it is for as long as it says: whoever waits measures that with a clock of its own, as the clocks
of two machines may differ. Every write is conditional on the one before, so that of two that
take an expired lease one fails.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any
import uuid

from absl import logging

from mat_jax.errors import EXIT_CODE, UserError
from mat_jax.runtime import sigterm
from mat_jax.runtime.storage import buckets, new_files
from mat_jax.runtime.storage.buckets import Found

SECONDS = 60.0
# Renewals while a lease lasts, and looks at one of somebody else.
_RENEWALS = 4
_LOOKS = 20
# By the clock, an expired lease is one that nobody has renewed for so long.
_CERTAIN_SECONDS = 3600.0


@contextlib.contextmanager
def hold(path: str, workdir: str, seconds: float = SECONDS,
         on_loss: Callable[[str], None] | None = None) -> Iterator[None]:
  """Has the lease for the time of its `with` block.

  Args:
    path: address of the lease.
    workdir: the folder that it is about, for messages.
    seconds: how long it lasts without being renewed.
    on_loss: gets a sentence, in another thread, if somebody else has taken it, which they can
      while this machine stands still or does not reach the bucket. By default that ends the
      process, as two runs would spoil each other's files.

  Raises:
    UserError: somebody else has it and renews it, or it cannot be written.
  """
  lease = _Lease(path, workdir, seconds, on_loss or _end)
  try:
    lease.take()
  except OSError as error:
    raise UserError(f'the workdir {workdir} cannot be written: {error.strerror}; choose another '
                    'one with --workdir, or see to the credentials') from error
  with lease.renewed():
    yield


class _Lease:
  """The lease of this process, or what another one has written."""

  def __init__(self, path: str, workdir: str, seconds: float, on_loss: Callable[[str], None]):
    self._path, self._workdir, self._seconds = path, workdir, seconds
    self._on_loss = on_loss
    self._id = uuid.uuid4().hex
    self._generation = b''

  def take(self) -> None:
    """Writes it once it is free; UserError if its owner renews it."""
    seen, since = buckets.read(self._path), time.monotonic()
    told = False
    while not (_is_free(seen, time.monotonic() - since) and self._write(seen.generation)):
      owner = _content(seen)
      if not told:
        logging.info('%s has the workdir %s; waiting up to %g s to see whether it still runs.',
                     _name(owner), self._workdir, _duration(owner))
        told = True
      time.sleep(min(self._seconds, _duration(owner)) / _LOOKS)
      now = buckets.read(self._path)
      if now.data is not None and now.generation != seen.generation:
        raise UserError(
            f'another run, {_name(_content(now))}, is using the workdir {self._workdir}; stop it, '
            'or choose another one with --workdir')
      if now.generation != seen.generation:
        seen, since = now, time.monotonic()

  @contextlib.contextmanager
  def renewed(self) -> Iterator[None]:
    """Renews it in the `with` block, and removes it in the end."""
    ended = threading.Event()
    thread = threading.Thread(target=self._renew, args=(ended,), name='lease', daemon=True)
    thread.start()
    try:
      yield
    finally:
      ended.set()
      thread.join()
      try:
        buckets.remove(self._path, only_over=self._generation)
      except OSError as error:
        logging.warning('%s cannot be removed (%s); it expires after %g s.', self._path,
                        error.strerror, self._seconds)

  def _renew(self, ended: threading.Event) -> None:
    while not ended.wait(self._seconds / _RENEWALS):
      try:
        if not self._write(self._generation):
          self._on_loss(f'another run has taken the workdir {self._workdir}, since this one did '
                        f'not reach it for {self._seconds:g} s')
          return
      except OSError as error:
        logging.warning('%s cannot be renewed (%s); it is tried again.', self._path,
                        error.strerror)

  def _write(self, generation: bytes) -> bool:
    """Writes it over a generation; returns whether this process has it."""
    content = {'owner': f'process {os.getpid()} on {socket.gethostname()}', 'id': self._id,
               'pid': os.getpid(), 'machine': _machine(), 'seconds': self._seconds,
               'expires': time.time() + self._seconds}
    written = buckets.write(self._path, json.dumps(content).encode(), only_over=generation)
    if written is None:
      # A write whose answer was lost is made again, and meets itself.
      found = buckets.read(self._path)
      written = found.generation if _content(found).get('id') == self._id else None
    if written is not None:
      self._generation = written
    return written is not None


def _end(reason: str) -> None:
  logging.error('%s. It ends.', reason)
  new_files.discard_unfinished()
  sigterm.leave(EXIT_CODE)


def _content(found: Found) -> dict[str, Any]:
  """What is written in a lease; nothing if that is something else."""
  try:
    content = json.loads(found.data or b'{}')
  except ValueError:
    return {}
  return content if isinstance(content, dict) else {}


def _name(content: dict[str, Any]) -> str:
  return str(content.get('owner') or 'of unknown name')


def _duration(content: dict[str, Any]) -> float:
  seconds = content.get('seconds')
  return float(seconds) if isinstance(seconds, int | float) and 0 < seconds < 600 else SECONDS


def _is_free(found: Found, unchanged: float) -> bool:
  """Whether a lease that stayed as it is for some seconds is nobody's any more."""
  if found.data is None:
    return True
  content = _content(found)
  expires = content.get('expires')
  if isinstance(expires, int | float) and time.time() > expires + _CERTAIN_SECONDS:
    return True
  return unchanged > _duration(content) or _is_of_ended(content)


def _is_of_ended(content: dict[str, Any]) -> bool:
  """Whether a lease is of a process of this machine that is not there any more."""
  machine, pid = content.get('machine'), content.get('pid')
  return bool(machine) and machine == _machine() and isinstance(pid, int) and has_ended(pid)


def has_ended(pid: int) -> bool:
  """Whether this machine has no process of a number; False where that is not known."""
  if pid < 1 or os.name != 'posix':
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except (OSError, OverflowError):
    pass
  return False


def _machine() -> str:
  """Identifies the machine since its start, and the container in it; '' where nothing does."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()
    return f'{boot} {os.stat("/proc/self/ns/pid").st_ino}'
  except OSError:
    return ''
