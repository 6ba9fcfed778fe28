import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mat_jax import preemption

_START = '''
import os, time
from mat_jax.preemption import Preemption
def block(seconds):  # As XLA's compiler: in C, where no signal is handled, without Python's lock.
  os.system(f'exec sleep {seconds} >/dev/null')
def say(word):
  print(word, flush=True)
'''
_CASES = {
    # A loop that polls after every step, and a second signal while it saves.
    'between steps': '''
with Preemption() as preemption:
  while not preemption.requested:
    preemption.progress_made()
    say('ready')
    time.sleep(0.05)
  say('saving')
  time.sleep(3)
  say('saved')
''',
    'compiling': '''
with Preemption() as preemption:
  print('kept in a buffer')
  say('ready')
  block(15)
''',
    'compiling after a checkpoint': '''
with Preemption() as preemption:
  preemption.progress_made()
  preemption.nothing_to_save()
  say('ready')
  block(15)
''',
    # Longer than the time of grace.
    'compiling with progress': '''
with Preemption() as preemption:
  preemption.progress_made()
  say('ready')
  block(4)
  say('saving' if preemption.requested else 'not requested')
  preemption.nothing_to_save()
  say('saved')
''',
    # The main thread comes back and goes on, within the time of grace.
    'progress after the signal': '''
with Preemption() as preemption:
  say('ready')
  block(1)
  preemption.progress_made()
  block(3)
  say('saved')
''',
    'nothing to save in the end': '''
with Preemption() as preemption:
  preemption.progress_made()
  say('ready')
  block(1)
  preemption.nothing_to_save()
  say('saved')
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
    ('between steps', ['saving', 'saved'], 0, 3, 10),
    ('compiling', ['kept in a buffer'], 0, 1.9, 10),
    ('compiling after a checkpoint', [], 0, 1.9, 10),
    ('compiling with progress', ['saving', 'saved'], 0, 3.9, 10),
    ('progress after the signal', ['saved'], 0, 3.9, 10),
    ('nothing to save in the end', ['saved'], 0, 2.9, 10),
    ('after the end', [], -signal.SIGTERM, 0, 5),
])
def test_sigterm(outcomes, name, words, code, shortest, longest):
  found, found_code, seconds = outcomes[name]
  assert (found, found_code) == (words, code)
  assert shortest < seconds < longest


@pytest.fixture
def handler():
  """A handler that was there before."""
  def handle(number, frame):
    raise AssertionError('the previous handler')

  before = signal.signal(signal.SIGTERM, handle)
  yield handle
  signal.signal(signal.SIGTERM, before)


def _wakeup_descriptor():
  found = signal.set_wakeup_fd(-1)
  signal.set_wakeup_fd(found)
  return found


def test_the_block_leaves_everything_as_it_was(handler):
  descriptors = os.listdir('/dev/fd')
  with pytest.raises(KeyError), preemption.Preemption() as found:
    assert signal.getsignal(signal.SIGTERM) != handler
    os.kill(os.getpid(), signal.SIGTERM)
    assert found.requested
    raise KeyError('of the loop')
  assert signal.getsignal(signal.SIGTERM) == handler
  assert _wakeup_descriptor() == -1
  assert 'preemption' not in [thread.name for thread in threading.enumerate()]
  assert os.listdir('/dev/fd') == descriptors


def test_a_wakeup_descriptor_of_someone_else_stays(handler):
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer)
  try:
    with preemption.Preemption() as found:
      os.kill(os.getpid(), signal.SIGTERM)
      assert found.requested
    assert _wakeup_descriptor() == writer
    assert os.read(reader, 10) == bytes([signal.SIGTERM])
  finally:
    signal.set_wakeup_fd(before)
    os.close(reader)
    os.close(writer)


def test_ctrl_c_stays_an_interrupt():
  with pytest.raises(KeyboardInterrupt), preemption.Preemption() as found:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
  assert not found.requested


def test_another_thread_gets_no_handler(handler):
  def block():
    with preemption.Preemption() as found:
      found.progress_made()
      handlers.append(signal.getsignal(signal.SIGTERM))

  handlers = []
  thread = threading.Thread(target=block)
  thread.start()
  thread.join()
  assert handlers == [handler]
