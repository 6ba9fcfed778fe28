"""SIGTERM, with which a machine that is taken away says so half a minute before."""

import contextlib
import os
import signal
import sys
import threading
import types

from absl import logging

# Seconds that the main thread has to end by itself.
_GRACE = 2.0


class Preemption:
  """In its `with` block, SIGTERM sets `requested` instead of ending the process.

  The training loop reads it after every step, saves, and returns. But Python runs the handler
  of a signal between two instructions of the main thread, and that one may be in XLA's
  compiler for minutes. As long as nothing would be lost, another thread then ends the process
  with exit code 0. It gets to know of the signal by Python's wakeup descriptor, which is
  written to at once.

  Outside of the main thread the block does nothing, and a wakeup descriptor of someone else
  stays, so that only the handler works. Ctrl-C stays a KeyboardInterrupt. A process that is
  forked in the block would share the descriptor and could end this one; training forks none.

  Attributes:
    requested: whether SIGTERM has come.
  """

  def __init__(self):
    self.requested = False
    self._unsaved = self._ended = False
    self._changed = threading.Condition()
    self._undo = contextlib.ExitStack()

  def progress_made(self) -> None:
    """From now on there is something to save: the process ends when the loop does."""
    self._set(unsaved=True)

  def nothing_to_save(self) -> None:
    """From now on, as in the beginning, complete checkpoints have all progress."""
    self._set(unsaved=False)

  def __enter__(self) -> 'Preemption':
    if threading.current_thread() is threading.main_thread():
      previous = signal.signal(signal.SIGTERM, self._handle)
      self._undo.callback(signal.signal, signal.SIGTERM, previous or signal.SIG_DFL)
      self._start_watching()
    return self

  def __exit__(self, *error) -> None:
    self._undo.close()

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    self.requested = True

  def _start_watching(self) -> None:
    other = signal.set_wakeup_fd(-1)
    if other != -1:
      signal.set_wakeup_fd(other)
      return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=self._watch, args=(reader,), name='preemption', daemon=True)
    thread.start()
    # Undone from the last to the first: the thread ends when the writer is closed.
    self._undo.callback(os.close, reader)
    self._undo.callback(thread.join)
    self._undo.callback(os.close, writer)
    self._undo.callback(self._set, ended=True)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    self._undo.callback(signal.set_wakeup_fd, -1)

  def _set(self, unsaved: bool = False, ended: bool = False) -> None:
    with self._changed:
      self._unsaved, self._ended = unsaved, ended
      self._changed.notify()

  def _watch(self, reader: int) -> None:
    """Reads the numbers of the signals until the other end is closed."""
    while numbers := os.read(reader, 64):
      if signal.SIGTERM in numbers:
        self._end_when_saved()

  def _end_when_saved(self) -> None:
    """Ends the process once nothing was to save for the time of grace."""
    with self._changed:
      while not self._ended:
        is_same = not self._changed.wait(None if self._unsaved else _GRACE)
        if is_same and not self._unsaved and not self._ended:
          _leave()


def _leave() -> None:
  logging.info('Stopped by a signal, with nothing to save.')
  logging.flush()
  sys.stdout.flush()
  # An exit in the usual way would wait for the main thread.
  os._exit(0)
