"""SIGTERM, seen by a thread at once, whatever the main thread does.

Python runs the handler of a signal between two instructions of the main thread. That one may be
in XLA's compiler for minutes, or in a destructor or a callback of the garbage collector, which
drop an exception that the handler raises. Python's wakeup descriptor is written to at once.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

from absl import logging

_FLUSH_SECS = 2.0


@contextlib.contextmanager
def calls(react: Callable[[], None]) -> Iterator[None]:
  """In its `with` block, the first SIGTERM calls a function in a thread of its own.

  Outside of the main thread the block does nothing. Where someone else uses the wakeup
  descriptor, that stays, and the thread starts when the main thread runs the handler. Ctrl-C
  stays a KeyboardInterrupt. In a forked process SIGTERM has its default effect.

  Args:
    react: what to do; SIGTERM does nothing else. Never called after the block has ended.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  watch = _Watch(react)
  with _wakeup(watch) as is_read, contextlib.ExitStack() as undo:
    # A handler that starts a thread could interrupt the start of another one.
    handler = (lambda number, frame: None) if is_read else (lambda number, frame: watch.notice())
    previous = signal.signal(signal.SIGTERM, handler)
    undo.callback(signal.signal, signal.SIGTERM, previous or signal.SIG_DFL)
    undo.callback(watch.end)
    yield


def leave(code: int) -> NoReturn:
  """Ends the process at once, from any thread, after its output has been written.

  An exit in the usual way would wait for the main thread, and on several processes for the
  others.
  """
  # The main thread may hold the lock of a stream and wait for whoever reads it.
  flush = threading.Thread(target=_flush, daemon=True)
  flush.start()
  flush.join(_FLUSH_SECS)
  os._exit(code)


def _flush() -> None:
  logging.flush()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()


class _Watch:
  """Calls a function in a thread the first time that a signal is noticed, until it has ended."""

  def __init__(self, react: Callable[[], None]):
    self._react = react
    self._lock = threading.Lock()
    self._done = False

  def notice(self) -> None:
    # Without waiting: the handler may interrupt this very function.
    if self._lock.acquire(blocking=False):
      done, self._done = self._done, True
      self._lock.release()
      if not done:
        threading.Thread(target=self._react, name='sigterm', daemon=True).start()

  def end(self) -> None:
    with self._lock:
      self._done = True

  def forget(self) -> None:
    """Keeps a forked process from telling its parent of signals of its own."""
    if not self._done:
      signal.set_wakeup_fd(-1)
      signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _wakeup(watch: _Watch) -> Iterator[bool]:
  """Has a thread read the wakeup descriptor, unless it is someone else's; yields whether."""
  other = signal.set_wakeup_fd(-1)
  if other != -1:
    signal.set_wakeup_fd(other)
    yield False
    return
  reader, writer = socket.socketpair()  # Windows takes no pipe
  writer.setblocking(False)
  thread = threading.Thread(target=_read, args=(reader, watch), name='signals', daemon=True)
  thread.start()
  signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=watch.forget)
  try:
    yield True
  finally:
    signal.set_wakeup_fd(-1)
    writer.close()
    thread.join()
    reader.close()


def _read(reader: socket.socket, watch: _Watch) -> None:
  """Reads the numbers of the signals until the other end is closed."""
  while numbers := reader.recv(64):
    if signal.SIGTERM in numbers:
      watch.notice()
