"""Preemption: what SIGTERM does to a training run.

SIGTERM comes about half a minute before the end. The loop asks after every step whether it has
come, on several processes whether it has come to any of them, saves and returns. But the main
thread may be busy for minutes: it compiles, evaluates, or waits for a disk. So the loop leaves
the last complete state here, and if the main thread has not come back after a few seconds,
another thread saves that state and ends the process.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import threading
import time

from absl import logging
import jax

from mat_jax.runtime import cluster, sigterm

# Seconds that the main thread has to end by itself, without and with progress to save.
_IDLE_GRACE, _GRACE = 2.0, 5.0
_POLL = 0.05
_SIGNALLED = 128 + 15  # the exit code of a process that SIGTERM has ended


@dataclasses.dataclass(frozen=True)
class Rescue:
  """A way to save a complete state from another thread.

  Attributes:
    save: writes it, and returns when it is on the disk; at once if it is there already.
    is_ready: whether the devices have computed it.
  """

  save: Callable[[], None]
  is_ready: Callable[[], bool] = lambda: True


class Preemption:
  """In its `with` block, SIGTERM sets `requested`, and ends the process in a bounded time.

  Exit codes: 0 if nothing is lost, 143 if a save was not done in time. On several processes the
  end of the block after a signal is that of the process.

  Attributes:
    requested: whether SIGTERM has come, here or to another process.
  """

  def __init__(self, seconds: float = 20.0, processes: 'Processes | None' = None):
    """Nothing is watched before the block begins.

    Args:
      seconds: from SIGTERM until the process has ended, whatever it does.
      processes: of the run, if there are several.
    """
    self.requested = False
    self._seconds, self._processes = seconds, processes
    self._changed = threading.Condition()
    self._rescue: Rescue | None = None
    self._older: Rescue | None = None
    self._stepping = self._stopping = self._ended = False
    self._undo = contextlib.ExitStack()

  def offer(self, rescue: Rescue) -> None:
    """From now on this is what to save, if the main thread does not."""
    self._set(rescue=rescue, stepping=False)

  def withdraw(self) -> None:
    """From now on until the next offer a step is computed: there is no complete state.

    Before the first offer there is nothing to lose.
    """
    self._set(rescue=None, older=None, stepping=self._stepping or self._rescue is not None)

  def keep(self, older: Rescue) -> None:
    """In place of `withdraw` before a slow step: saves this until the next offer is ready."""
    self._set(rescue=None, older=older, stepping=True)

  def has_to_stop(self, step: int) -> bool:
    """Whether the run ends after so many steps, on every process alike; ask before each step."""
    processes = self._processes
    stop = self.requested if processes is None else processes.have_to_stop(step)
    if stop:
      self._set(stopping=True)
    return stop

  def __enter__(self) -> 'Preemption':
    self._undo.enter_context(sigterm.calls(self._react_to_signal))
    if self._processes is not None:
      self._processes.listen(self._react)
    return self

  def __exit__(self, kind, error, trace) -> None:
    self._undo.close()
    self._set(ended=True)
    if self._processes is not None and self.requested and error is None:
      self._processes.leave_together(self._seconds)

  def _set(self, **fields) -> None:
    with self._changed:
      for name, value in fields.items():
        setattr(self, f'_{name}', value)
      self._changed.notify_all()

  def _react_to_signal(self) -> None:
    if self._processes is None:
      self._react()
    else:
      self._processes.ask_to_stop()  # this one hears of it as the others do

  def _react(self) -> None:
    """In a thread: ends the process if the main thread does not."""
    self.requested = True
    timer = threading.Timer(self._seconds, self._give_up)
    timer.daemon = True
    timer.start()
    with self._changed:
      if not self._main_thread_ends():
        self._save_and_leave()
    if self._processes is None:
      timer.cancel()

  def _main_thread_ends(self) -> bool:
    """Waits for the end of the block; False if a state could be saved earlier than that.

    Or if there is nothing to save. As `_changed` is held, it stays so.
    """
    begun = time.monotonic()
    while not self._ended:
      waited = time.monotonic() - begun
      is_idle = self._rescue is None and not self._stepping and not self._stopping
      if is_idle and waited > _IDLE_GRACE:
        return False
      if waited > (self._seconds / 2 if self._stopping else _GRACE) and self._newest() is not None:
        return False
      self._changed.wait(_POLL)
    return True

  def _newest(self) -> Rescue | None:
    """What can be saved now."""
    return self._rescue if self._rescue is not None and self._rescue.is_ready() else self._older

  def _save_and_leave(self) -> None:
    newest = self._newest()
    if newest is None:
      logging.info('Stopped by a signal, with nothing to save.')
    elif self._processes is None or self._processes.is_first:
      newest.save()
    else:
      logging.info('Stopped by a signal; process 0 saves the newest state.')
    if self._processes is not None:
      self._processes.leave_together(self._seconds)
    sigterm.leave(0)

  def _give_up(self) -> None:
    logging.error('Stopped by a signal. What was done since the newest checkpoint is lost: it was '
                  'not saved within %g s (train.preemption_secs).', self._seconds)
    sigterm.leave(_SIGNALLED)


class Processes:
  """Agreement of several processes on the step after which all stop; one for a run.

  Each step needs all of them, so all have to stop after the same one. When one is asked to stop,
  every process says up to which step it has gone or is bound to go, and all go on to the highest
  of these.
  """

  def __init__(self, store: cluster.KeyValueStore | None = None, index: int | None = None,
               count: int | None = None):
    """Takes part in a run.

    Args:
      store: for tests, as are the others; by default that of `cluster.join`.
      index: which process this is.
      count: how many there are.
    """
    self._store = store or cluster.KeyValueStore()
    self._index = jax.process_index() if index is None else index
    self._count = jax.process_count() if count is None else count
    self._lock = threading.Lock()
    self._asked, self._bound_to = False, 0

  @property
  def is_first(self) -> bool:
    """Whether this is the process that saves."""
    return self._index == 0

  def ask_to_stop(self) -> None:
    """Asks all processes to stop."""
    self._store.put('preemption/asked')

  def listen(self, react: Callable[[], None]) -> None:
    """Calls a function in a thread once one of them has been asked to stop."""
    threading.Thread(target=self._listen, args=(react,), name='preemption', daemon=True).start()

  def have_to_stop(self, step: int) -> bool:
    """Whether all stop after so many steps; if not, this process is bound to do another one."""
    with self._lock:
      if not self._asked:
        self._bound_to = step + 1
        return False
    return step >= max(int(self._wait_for(f'preemption/bound_to/{other}'))
                       for other in range(self._count))

  def leave_together(self, seconds: float) -> None:
    """Ends this process once process 0 has saved, and that one after the others.

    Args:
      seconds: to wait for process 0.
    """
    if self.is_first:
      self._store.put('preemption/saved')
    else:
      self._store.get('preemption/saved', seconds)
    cluster.leave(0, self._store, self._index, self._count)

  def _listen(self, react: Callable[[], None]) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the connection is closed in the end
      self._wait_for('preemption/asked')
      with self._lock:
        self._asked = True
        self._store.put(f'preemption/bound_to/{self._index}', str(self._bound_to))
      react()

  def _wait_for(self, key: str) -> str:
    while (value := self._store.get(key, 10.0)) is None:
      pass
    return value
