"""The processes of a run, one on each host of a pod, and their communication.

They communicate through JAX's coordination service, which process 0 runs, and not through
collectives of the devices: those time out when one process arrives minutes after another, as after
compiling.
"""

import collections
from collections.abc import Iterator
import contextlib
import itertools
import sys
import threading
import time
import traceback
from typing import NoReturn

from absl import logging
import jax
from jax._src import distributed

from mat_jax.errors import EXIT_CODE, UserError
from mat_jax.runtime import sigterm

# Seconds: between two heartbeats, without one before a process counts as dead, and between
# two lines in the log about which process is waited for.
_BEAT, _DEAD_AFTER, _LOG_EVERY = 5.0, 90.0, 30.0
_POLL = 2.0
# JAX's own watch, which ends the process by SIGABRT, comes later. Where compiling took longer than
# its default of 100 s, it was reported to end healthy processes.
_HEARTBEAT_TIMEOUT = 300
# Seconds that process 0 waits for the others to end before it does.
_FAREWELL = 3.0
_PREFIX = 'mat_jax/'


def join(coordinator: str | None = None, num_processes: int | None = None,
         process_id: int | None = None) -> None:
  """Connects this process with the others; call before anything asks for devices.

  On a TPU pod, under SLURM and under Open MPI the arguments are found in the environment. From now
  on a process that has died, or has ended with an error, ends the others, which name it.

  Args:
    coordinator: 'HOST:PORT' of process 0, the same everywhere.
    num_processes: how many there are.
    process_id: which of them this one is, from 0.

  Raises:
    UserError: an argument is missing and not found, or the others do not come.
  """
  # It would take SIGTERM away from `mat_jax.runtime.preemption`.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id,
                               heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT)
  except (ValueError, TypeError, IndexError, RuntimeError) as error:
    reason = str(error).splitlines()[0].rstrip('.')
    raise UserError(f'this process cannot join the others ({reason}); start one on every host, '
                    'each with --coordinator=HOST:PORT of process 0, --num_processes and '
                    '--process_id') from error
  if jax.process_count() > 1:
    store = KeyValueStore()
    threading.Thread(target=_watch_others, args=(store, jax.process_index()), daemon=True,
                     name='signs of life').start()


class KeyValueStore:
  """Small texts that all processes share, kept by process 0's coordination service."""

  def __init__(self):
    """Uses the connection that `join` has made."""
    self._client = distributed.global_state.client

  def put(self, key: str, value: str = '') -> None:
    """Sets a key, which may exist."""
    self._client.key_value_set(_PREFIX + key, value, allow_overwrite=True)

  def get(self, key: str, seconds: float) -> str | None:
    """The value of a key, waiting up to so many seconds for it to be set; None if it is not."""
    try:
      return self._client.blocking_key_value_get(_PREFIX + key, round(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
      return None

  def list(self, folder: str) -> dict[str, str]:
    """The keys FOLDER/NAME that are set: name -> value."""
    found = self._client.key_value_dir_get(_PREFIX + folder)
    return {key.rsplit('/', 1)[1]: value for key, value in found}

  def count(self, key: str) -> int:
    """Adds one to a counter, and returns it: 1 the first time."""
    return self._client.key_value_increment(_PREFIX + key, 1)


def all_gather(name: str, value: int = 0, store: KeyValueStore | None = None,
               process_index: int | None = None, process_count: int | None = None) -> list[int]:
  """The values of all processes, each of which has to call this; waits as long as they live.

  Args:
    name: what the processes are about to have done, for the log: 'compile the training step'.
      Calls of one name are matched in their order.
    value: of this process.
    store: for tests, as are the next two; by default that of `join`.
    process_index: which process this is.
    process_count: how many there are.

  Returns:
    One value for each process, in order. If one of them dies meanwhile, this process is ended, see
    `join`.
  """
  count = jax.process_count() if process_count is None else process_count
  if count == 1:
    return [value]
  index = jax.process_index() if process_index is None else process_index
  store = store or KeyValueStore()
  key = f'gather/{name}/{store.count(f"calls/{name}/{index}")}'
  store.put(f'{key}/{index}', str(value))
  return [int(_wait_for(store, f'{key}/{other}', other, name)) for other in range(count)]


def barrier(name: str) -> None:
  """Barrier: waits until all processes have called it; see `all_gather`."""
  all_gather(name)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """With its `with` block all processes end: in success together, or by the error of one.

  An exit in the usual way would wait minutes for processes that wait for this one, and abort
  where a thread waits for JAX's coordination service. On one process the block does nothing.
  """
  if jax.process_count() == 1:
    yield
    return
  try:
    yield
    barrier('finish')
    leave(0, KeyValueStore(), jax.process_index(), jax.process_count())
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    _fail(EXIT_CODE, str(error))
  except Exception as error:
    traceback.print_exc()
    _fail(1, f'{type(error).__name__}: {error}')


def leave(code: int, store: KeyValueStore, index: int, count: int) -> NoReturn:
  """Ends this process; process 0 after the others, as it runs the coordination service.

  Args:
    code: the exit code.
    store: of the processes.
    index: which process this is.
    count: how many there are.
  """
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # the connection may be lost
    store.put(f'left/{index}')
    deadline = time.monotonic() + _FAREWELL
    for other in range(1, count if index == 0 else 0):
      store.get(f'left/{other}', max(0.1, deadline - time.monotonic()))
  sigterm.leave(code)


def _fail(code: int, reason: str) -> NoReturn:
  """Ends this process, and tells the others why."""
  store, index = KeyValueStore(), jax.process_index()
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    store.put(f'gone/{index}', ' '.join(reason.split()))
  leave(code, store, index, jax.process_count())


def _wait_for(store: KeyValueStore, key: str, process: int, name: str) -> str:
  """The value that a process sets, which is named in the log while it does not."""
  begun = logged = time.monotonic()
  while (value := store.get(key, _POLL)) is None:
    now = time.monotonic()
    if now - logged >= _LOG_EVERY:
      logged = now
      logging.info('Waiting for process %d to %s, for %.0f s now.', process, name, now - begun)
  return value


class _Pulse:
  """Whether another process still sends heartbeats."""

  def __init__(self):
    self._last, self._changed = '', time.monotonic()

  def is_alive(self, sign: str, now: float) -> bool:
    """Registers its newest heartbeat."""
    if sign != self._last:
      self._last, self._changed = sign, now
    return now - self._changed < _DEAD_AFTER


def _watch_others(store: KeyValueStore, index: int) -> None:
  """Sends heartbeats, and ends this process when another one has ended, whatever it is doing.

  In a collective it would wait for that one indefinitely.
  """
  pulses: dict[str, _Pulse] = collections.defaultdict(_Pulse)
  for number in itertools.count():
    try:
      store.put(f'alive/{index}', str(number))
      reason = _trouble(store, str(index), pulses)
    except jax.errors.JaxRuntimeError:  # the connection is closed in the end
      return
    if reason:
      print(f'error: {reason}', file=sys.stderr)
      leave(EXIT_CODE, store, index, jax.process_count())
    time.sleep(_BEAT)


def _trouble(store: KeyValueStore, index: str, pulses: dict[str, _Pulse]) -> str | None:
  """What is wrong with another process, unless this one is about to end itself."""
  gone = store.list('gone')
  if index in gone:
    return None
  for process, reason in gone.items():
    return f'process {process} has ended: {reason}'
  now = time.monotonic()
  for process, sign in store.list('alive').items():
    if not pulses[process].is_alive(sign, now):
      return (f'process {process} has shown no sign of life for {_DEAD_AFTER:.0f} s: it has died, '
              'or its network has; look into its log, and start all processes again: they go on '
              'from the newest checkpoint')
  return None
