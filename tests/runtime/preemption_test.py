import signal
import subprocess
import sys
import threading
import time

import pytest

from mat_jax.runtime import preemption
from tests.support.fake_store import FakeStore

_START = '''
import os, time
from mat_jax.runtime.preemption import Preemption, Rescue
def block(seconds):  # As XLA's compiler: in C, where no signal is handled, without Python's lock.
  os.system(f'exec sleep {seconds} >/dev/null')
def say(word):
  print(word, flush=True)
def save(word, seconds=0):
  time.sleep(seconds)
  print(word)
'''
_CASES = {
    # A loop that asks after every step, and a second signal while it saves.
    'between steps': '''
with Preemption() as preemption:
  step = 0
  while not preemption.has_to_stop(step):
    preemption.withdraw()
    step += 1
    preemption.offer(Rescue(lambda: say('rescued')))
    say('ready')
    time.sleep(0.05)
  say('saving')
  time.sleep(7)
  say('saved')
''',
    'nothing to save': '''
with Preemption() as preemption:
  print('kept in a buffer')
  say('ready')
  block(15)
''',
    'busy with progress': '''
with Preemption() as preemption:
  preemption.offer(Rescue(lambda: save('old')))
  preemption.withdraw()
  preemption.offer(Rescue(lambda: save('rescued', 1)))
  say('ready')
  block(15)
''',
    # The main thread comes back before it is given up, and asks.
    'busy for a moment': '''
with Preemption() as preemption:
  preemption.offer(Rescue(lambda: save('rescued')))
  say('ready')
  block(3)
  say('stopping' if preemption.has_to_stop(1) else 'not requested')
''',
    'amid the first step': '''
with Preemption() as preemption:
  preemption.withdraw()
  say('ready')
  block(15)
''',
    'amid a step': '''
with Preemption() as preemption:
  preemption.offer(Rescue(lambda: save('old')))
  preemption.withdraw()
  say('ready')
  block(8)
  preemption.offer(Rescue(lambda: save('rescued')))
  block(15)
''',
    'a step that the devices compute': '''
with Preemption() as preemption:
  begun = time.monotonic()
  preemption.offer(Rescue(lambda: save('rescued'), lambda: time.monotonic() > begun + 8))
  say('ready')
  block(15)
''',
    # While another thread saves, the main thread does not begin a step, which takes the state.
    'back while it is saved': '''
with Preemption() as preemption:
  preemption.offer(Rescue(lambda: save('rescued', 3)))
  say('ready')
  block(6.5)
  preemption.withdraw()
  say('stepping')
''',
    # A copy of the state before a slow step; the devices do not finish it in time.
    'a slow step': '''
with Preemption() as preemption:
  preemption.keep(Rescue(lambda: save('copy')))
  preemption.offer(Rescue(lambda: save('new'), lambda: False))
  say('ready')
  block(15)
''',
    'a slow step while it stops': '''
with Preemption(13) as preemption:
  preemption.keep(Rescue(lambda: save('copy')))
  preemption.offer(Rescue(lambda: save('new'), lambda: False))
  say('ready')
  block(1)
  preemption.has_to_stop(1)
  block(15)
''',
    'a step without end': '''
with Preemption(7) as preemption:
  preemption.offer(Rescue(lambda: save('old')))
  preemption.withdraw()
  say('ready')
  block(15)
''',
    'a save without end': '''
with Preemption(7) as preemption:
  preemption.offer(Rescue(lambda: block(15)))
  say('ready')
  block(15)
''',
    'after the end': '''
with Preemption() as preemption:
  pass
say('ready')
block(15)
''',
}


def _outcome(process):
  """Sends SIGTERM, twice, when it is ready; returns its lines, exit code and seconds."""
  lines = []
  while 'ready' not in lines:
    lines.append(process.stdout.readline().strip())
    assert lines[-1], process.wait()
  start = time.monotonic()
  process.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  if process.poll() is None:
    process.send_signal(signal.SIGTERM)
  lines += process.communicate(timeout=30)[0].split('\n')
  words = [line for line in lines if line and line != 'ready']
  return words, process.returncode, time.monotonic() - start


@pytest.fixture(scope='module')
def outcomes():
  """Of all cases; they run at the same time, as they only wait."""
  processes = {name: subprocess.Popen([sys.executable, '-c', _START + code], text=True,
                                      stdout=subprocess.PIPE) for name, code in _CASES.items()}
  results = {}

  def follow(name, process):
    try:
      results[name] = _outcome(process)
    finally:
      process.kill()

  threads = [threading.Thread(target=follow, args=item) for item in processes.items()]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return results


@pytest.mark.parametrize('name,words,code,shortest,longest', [
    ('between steps', ['saving', 'saved'], 0, 6.9, 12),
    ('nothing to save', ['kept in a buffer'], 0, 1.9, 10),
    ('busy with progress', ['rescued'], 0, 5.9, 12),
    ('busy for a moment', ['stopping'], 0, 2.9, 12),
    ('amid the first step', [], 0, 1.9, 10),
    ('amid a step', ['rescued'], 0, 7.9, 12),
    ('a step that the devices compute', ['rescued'], 0, 7.5, 12),
    ('back while it is saved', ['rescued'], 0, 7.9, 12),
    ('a slow step', ['copy'], 0, 4.9, 12),
    ('a slow step while it stops', ['copy'], 0, 6.4, 12),
    ('a step without end', [], 143, 6.9, 12),
    ('a save without end', [], 143, 6.9, 12),
    ('after the end', [], -signal.SIGTERM, 0, 8),
])
def test_sigterm(outcomes, name, words, code, shortest, longest):
  found, found_code, seconds = outcomes[name]
  assert (found, found_code) == (words, code)
  assert shortest < seconds < longest


@pytest.mark.parametrize('ahead', [0, 1, 2])
def test_processes_stop_after_the_same_step(ahead):
  """One is bound to `ahead` more steps than the other when that one is asked."""
  store, heard = FakeStore(), [threading.Event() for _ in range(2)]
  processes = [preemption.Processes(store, index, 2) for index in range(2)]
  steps = [3, 3 + ahead]
  for process, event, step in zip(processes, heard, steps, strict=True):
    process.listen(event.set)
    assert not process.have_to_stop(step)
  processes[0].ask_to_stop()
  assert all(event.wait(10) for event in heard)
  for index, process in enumerate(processes):
    steps[index] += 1
    while not process.have_to_stop(steps[index]):
      steps[index] += 1
  assert steps == [4 + ahead] * 2


def test_a_process_that_has_not_begun_stops_with_the_others():
  store, heard = FakeStore(), [threading.Event() for _ in range(2)]
  processes = [preemption.Processes(store, index, 2) for index in range(2)]
  assert not processes[0].have_to_stop(7)
  for process, event in zip(processes, heard, strict=True):
    process.listen(event.set)
  processes[1].ask_to_stop()
  assert all(event.wait(10) for event in heard)
  assert not processes[1].have_to_stop(7) and processes[1].have_to_stop(8)
  assert processes[0].have_to_stop(8)


def test_process_0_leaves_last(monkeypatch):
  left = []
  monkeypatch.setattr(preemption.sigterm, 'leave', lambda code: left.append(
      (threading.current_thread().name, code)))
  store = FakeStore()
  threads = [threading.Thread(target=preemption.Processes(store, index, 2).leave_together,
                              args=(10,), name=str(index)) for index in range(2)]
  threads[1].start()
  time.sleep(0.2)
  assert not left, 'process 0 has not saved'
  threads[0].start()
  for thread in threads:
    thread.join()
  assert sorted(left) == [('0', 0), ('1', 0)]


def test_ctrl_c_stays_an_interrupt():
  before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
  try:
    with pytest.raises(KeyboardInterrupt), preemption.Preemption() as found:
      signal.raise_signal(signal.SIGINT)
      time.sleep(1)
  finally:
    signal.signal(signal.SIGINT, before)
  assert not found.requested
