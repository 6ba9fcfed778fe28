import errno
import os
import signal
import socket
import subprocess
import sys

from absl import logging
import pytest

from mat_jax.errors import UserError
from mat_jax.runtime import workdir_lock

# Holds the workdir until its input ends, with a child that outlives it.
_HOLDER = '''
import subprocess, sys
from mat_jax.runtime import workdir_lock
with workdir_lock.hold(sys.argv[1]):
  child = subprocess.Popen(['sleep', '60'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           close_fds=False)
  print(child.pid, flush=True)
  sys.stdin.read()
'''


@pytest.fixture
def warnings(monkeypatch):
  lines = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
  return lines


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path, warnings):
  workdir = str(tmp_path / 'runs' / 'a')
  holder = subprocess.Popen([sys.executable, '-c', _HOLDER, workdir], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)
  child = int(holder.stdout.readline())
  try:
    with pytest.raises(UserError) as caught, workdir_lock.hold(workdir):
      pass
    for part in (workdir, f'process {holder.pid} on {socket.gethostname()}', '--workdir'):
      assert part in str(caught.value)
    with workdir_lock.hold(str(tmp_path / 'runs' / 'b')):
      pass
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    with workdir_lock.hold(workdir):
      pass
  finally:
    os.kill(child, signal.SIGKILL)
    holder.communicate()
  assert not warnings


def test_the_holder_is_the_present_one(tmp_path):
  (tmp_path / '.lock').write_text('process 123456789 on a machine with a very long name\n')
  with workdir_lock.hold(str(tmp_path)):
    with pytest.raises(UserError, match=rf'run, process {os.getpid()} on \S+, is'):
      with workdir_lock.hold(str(tmp_path)):
        pass
  with workdir_lock.hold(str(tmp_path)):
    pass


def test_an_error_lets_go_of_it(tmp_path):
  with pytest.raises(KeyError), workdir_lock.hold(str(tmp_path)):
    raise KeyError('of the run')
  with workdir_lock.hold(str(tmp_path)):
    pass


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').touch()
  for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(UserError, match=f'workdir {path} cannot be written'):
      with workdir_lock.hold(str(path)):
        pass


@pytest.mark.parametrize('code', [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, warnings, code):
  def flock(file, operation):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(workdir_lock.fcntl, 'flock', flock)
  with workdir_lock.hold(str(tmp_path)):
    pass
  assert len(warnings) == 1 and str(tmp_path) in warnings[0] and os.strerror(code) in warnings[0]


def test_a_system_without_locks_is_a_warning(tmp_path, monkeypatch, warnings):
  monkeypatch.setattr(workdir_lock, 'fcntl', None)
  with workdir_lock.hold(str(tmp_path)):
    pass
  assert len(warnings) == 1 and str(tmp_path) in warnings[0]
