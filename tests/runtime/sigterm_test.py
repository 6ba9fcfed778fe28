import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mat_jax.runtime import sigterm

_ENDED = '''
import gc, os, sys, time
from mat_jax.runtime import command_line
from mat_jax.runtime.storage import new_files
def block():
  os.system('exec sleep 30')
def spin():
  while True:
    pass
'''
# Where a SystemExit of the handler is lost, or comes late.
_CASES = {
    'compiler': 'block()',
    'loop': 'spin()',
    'destructor': '''
class Last:
  def __del__(self):
    spin()
Last()
''',
    'collector': '''
gc.callbacks.append(lambda phase, info: spin())
gc.collect()
''',
    'swallowed': '''
while True:
  try:
    spin()
  except BaseException:
    pass
''',
}


@pytest.mark.parametrize('code', _CASES.values(), ids=_CASES)
def test_a_command_ends_wherever_it_is_and_leaves_nothing(tmp_path, code):
  program = _ENDED + f'''
with command_line.ended_by_sigterm(), new_files.new_directory({str(tmp_path / "out")!r}) as folder:
  open(os.path.join(folder, 'file'), 'w').close()
  print('ready', flush=True)
''' + '\n'.join(f'  {line}' for line in code.strip().splitlines())
  process = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'ready\n'
  assert os.listdir(tmp_path)
  begun = time.monotonic()
  process.terminate()
  assert process.wait(20) == 128 + signal.SIGTERM
  assert time.monotonic() - begun < 5
  assert os.listdir(tmp_path) == []


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
  descriptors, called = os.listdir('/dev/fd'), threading.Event()
  with pytest.raises(KeyError), sigterm.calls(called.set):
    assert signal.getsignal(signal.SIGTERM) != handler
    os.kill(os.getpid(), signal.SIGTERM)
    assert called.wait(10)
    raise KeyError('of the program')
  assert signal.getsignal(signal.SIGTERM) == handler
  assert _wakeup_descriptor() == -1
  assert 'signals' not in [thread.name for thread in threading.enumerate()]
  assert os.listdir('/dev/fd') == descriptors


def test_it_is_called_once(handler):
  calls = []
  with sigterm.calls(lambda: calls.append(1)):
    for _ in range(3):
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(0.05)
  assert calls == [1]


def test_a_wakeup_descriptor_of_someone_else_stays(handler):
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer)
  called = threading.Event()
  try:
    with sigterm.calls(called.set):
      os.kill(os.getpid(), signal.SIGTERM)
      assert called.wait(10)
    assert _wakeup_descriptor() == writer
    assert os.read(reader, 10) == bytes([signal.SIGTERM])
  finally:
    signal.set_wakeup_fd(before)
    os.close(reader)
    os.close(writer)


def test_another_thread_gets_no_handler(handler):
  def block():
    with sigterm.calls(lambda: None):
      handlers.append(signal.getsignal(signal.SIGTERM))

  handlers = []
  thread = threading.Thread(target=block)
  thread.start()
  thread.join()
  assert handlers == [handler]


def test_a_forked_process_ends_alone():
  program = '''
import os, signal, time
from mat_jax.runtime import sigterm
with sigterm.calls(lambda: print('called')):
  child = os.fork()
  if not child:
    time.sleep(30)
    os._exit(0)
  time.sleep(0.5)
  os.kill(child, signal.SIGTERM)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
  time.sleep(0.5)
'''
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert done.stdout == f'{-signal.SIGTERM}\n'
