import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mat_jax.errors import UserError
from mat_jax.runtime.storage import new_files
from tests.support.paths import ROOT


def names(folder):
  return sorted(os.listdir(folder))


def test_a_folder_replaces_the_old_one_when_it_is_complete(tmp_path):
  target = tmp_path / 'pictures'
  for content in ('a', 'b'):
    with new_files.replaced_directory(str(target)) as folder:
      open(os.path.join(folder, content), 'w').close()
      assert names(target) == ['a'] if content == 'b' else not target.exists()
    assert names(target) == [content] and names(tmp_path) == ['pictures']


def test_the_old_folder_stays_when_the_new_one_fails(tmp_path, monkeypatch):
  target = tmp_path / 'pictures'
  target.mkdir()
  (target / 'old').touch()
  with pytest.raises(RuntimeError), new_files.replaced_directory(str(target)) as folder:
    open(os.path.join(folder, 'new'), 'w').close()
    raise RuntimeError
  assert names(target) == ['old'] and names(tmp_path) == ['pictures']

  rename = os.rename

  def fail(source, destination):
    if '.partial-' in source:
      raise PermissionError(13, 'Permission denied')
    rename(source, destination)

  monkeypatch.setattr(os, 'rename', fail)
  with (pytest.raises(UserError, match='cannot be written: Permission denied'),
        new_files.replaced_directory(str(target))):
    pass
  assert names(target) == ['old'] and names(tmp_path) == ['pictures']


@pytest.mark.parametrize('opened', [new_files.new_directory, new_files.replaced_directory])
def test_nothing_stays_of_what_is_written_after_a_failure(tmp_path, opened):
  def write(folder, end):
    while time.monotonic() < end:
      with contextlib.suppress(OSError):  # from meeting the removal
        os.makedirs(os.path.join(folder, 'a', 'b'), exist_ok=True)
        open(os.path.join(folder, 'a', 'b', str(time.monotonic())), 'w').close()
      time.sleep(0.05)

  with pytest.raises(RuntimeError), opened(str(tmp_path / 'new')) as folder:
    open(os.path.join(folder, 'meta'), 'w').close()
    thread = threading.Thread(target=write, args=(folder, time.monotonic() + 0.6))
    thread.start()
    raise RuntimeError
  thread.join()
  assert names(tmp_path) == []


def test_a_folder_that_stayed_empty_is_not_waited_for(tmp_path, monkeypatch):
  monkeypatch.setattr(new_files.time, 'sleep', lambda seconds: pytest.fail('waits'))
  with pytest.raises(RuntimeError), new_files.new_directory(str(tmp_path / 'new')):
    raise RuntimeError
  assert names(tmp_path) == []


def test_a_folder_that_cannot_be_removed_is_named(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(new_files.shutil, 'rmtree', lambda folder, ignore_errors: None)
  monkeypatch.setattr(new_files, '_DISCARD_SECONDS', 0.1)
  (tmp_path / 'new').mkdir()
  (tmp_path / 'new' / 'file').touch()
  new_files.discard(str(tmp_path / 'new'))
  assert f'{tmp_path}/new could not be removed' in caplog.text


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_temporary_directory_is_removed_by_signals_too(tmp_path, number):
  # Where the tests run in the background, SIGINT is ignored by their children.
  program = ('import signal\nfrom mat_jax.runtime import command_line\n'
             'from mat_jax.runtime.storage import new_files\n'
             'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
             'with (command_line.ended_by_sigterm(),\n'
             '      new_files.temporary_directory("page_") as folder):\n'
             '  open(folder + "/a", "w").close()\n'
             '  print("ready", flush=True)\n  while True: signal.pause()')
  with subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, cwd=ROOT,
                        stderr=subprocess.DEVNULL,
                        env={**os.environ, 'TMPDIR': str(tmp_path)}) as process:
    assert process.stdout.readline() == b'ready\n'
    assert len(os.listdir(tmp_path)) == 1
    process.send_signal(number)
    try:
      assert process.wait(60)
    finally:
      process.kill()
  assert not os.listdir(tmp_path)
