"""Leases on a server on loopback, whose owners live, are killed, or lose them."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from mat_jax.errors import EXIT_CODE, UserError
from mat_jax.runtime import lease, workdir_lock
from mat_jax.runtime.storage import buckets
from tests.support.paths import ROOT

_HOLDER = '''
import sys
from mat_jax.runtime import lease
with lease.hold(sys.argv[1], 'the workdir', float(sys.argv[2])):
  print('held', flush=True)
  sys.stdin.read()
'''


@pytest.fixture
def holder(bucket):
  """Starts a process that holds the lease of a path."""
  processes = []

  def start(path, seconds):
    process = subprocess.Popen([sys.executable, '-c', _HOLDER, path, str(seconds)], cwd=ROOT,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    processes.append(process)
    assert process.stdout.readline() == b'held\n'
    return process

  yield start
  for process in processes:
    process.kill()
    process.communicate()


def _as_of_another_machine(data, **changes):
  """The contents of a lease, of another machine."""
  return json.dumps({**json.loads(data), 'machine': 'another', **changes}).encode()


def test_a_second_run_is_refused_and_a_killed_one_of_this_machine_leaves_the_lease(bucket, holder):
  workdir = bucket[0]
  path = f'{workdir}/.lock'
  process = holder(path, 16.0)
  with pytest.raises(UserError) as caught, workdir_lock.hold(workdir):
    pass
  for part in (workdir, f'process {process.pid} on {socket.gethostname()}', '--workdir'):
    assert part in str(caught.value)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  begun = time.monotonic()
  with workdir_lock.hold(workdir + '/'):
    assert time.monotonic() - begun < 12.0
    assert json.loads(buckets.read(path).data)['pid'] == os.getpid()
  assert buckets.read(path).data is None


def test_a_lease_of_another_machine_expires_by_the_waiters_clock(bucket, holder):
  path = f'{bucket[0]}/.lock'
  process = holder(path, 60.0)
  process.kill()
  process.wait()
  data = buckets.read(path).data
  for clock in (-3000.0, 1e9):  # its clock differs, which is no reason
    buckets.write(path, _as_of_another_machine(data, seconds=1.0, expires=time.time() + clock))
    begun = time.monotonic()
    with lease.hold(path, 'the workdir', 5.0):
      assert 1.0 <= time.monotonic() - begun < 30.0


def test_one_that_expired_hours_ago_is_free_at_once(bucket):
  path = f'{bucket[0]}/.lock'
  buckets.write(path, json.dumps({'seconds': 60, 'expires': time.time() - 7200}).encode())
  begun = time.monotonic()
  with lease.hold(path, 'the workdir'):
    assert time.monotonic() - begun < 30.0


def test_it_is_renewed_while_it_is_held(bucket):
  path = f'{bucket[0]}/.lock'
  with lease.hold(path, 'the workdir', 0.4):
    first, begun = buckets.read(path), time.monotonic()
    while (second := buckets.read(path)).generation == first.generation:
      assert time.monotonic() - begun < 30.0
      time.sleep(0.02)
    assert json.loads(second.data)['expires'] > json.loads(first.data)['expires']
  assert buckets.read(path).data is None


def test_whoever_loses_it_is_told_and_leaves_it_to_the_other(bucket):
  path, lost = f'{bucket[0]}/.lock', threading.Event()
  reasons = []

  def on_loss(reason):
    reasons.append(reason)
    lost.set()

  with lease.hold(path, 'the workdir', 0.4, on_loss):
    buckets.write(path, b'{"id": "other"}')
    assert lost.wait(30)
  assert 'another run has taken the workdir the workdir' in reasons[0]
  assert buckets.read(path).data == b'{"id": "other"}'


def test_a_process_that_loses_it_ends(bucket, holder):
  path = f'{bucket[0]}/.lock'
  process = holder(path, 0.4)
  buckets.write(path, b'{"id": "other"}')
  assert process.wait(60) == EXIT_CODE


def test_a_renewal_whose_answer_was_lost_is_no_loss(bucket, monkeypatch):
  path, reasons = f'{bucket[0]}/.lock', []
  write, done = buckets.write, threading.Event()

  def write_and_lose_the_answer(path, data, only_over=None):
    if write(path, data, only_over):
      done.set()
    return write(path, data, only_over)  # TensorStore's second attempt

  with lease.hold(path, 'the workdir', 0.4, reasons.append):
    monkeypatch.setattr(buckets, 'write', write_and_lose_the_answer)
    assert done.wait(30)
  assert not reasons and buckets.read(path).data is None


def test_something_else_under_its_name_expires_too(bucket, monkeypatch):
  monkeypatch.setattr(lease, 'SECONDS', 0.5)
  path = f'{bucket[0]}/.lock'
  for data in (b'', b'[1]', b'{"seconds": "x", "pid": -1}'):
    buckets.write(path, data)
    with lease.hold(path, 'the workdir', 0.5):
      assert json.loads(buckets.read(path).data)['seconds'] == 0.5


def test_a_bucket_that_cannot_be_written_is_named(bucket_server):
  with pytest.raises(UserError, match='workdir gs://no-such-bucket/run cannot be written: '):
    with workdir_lock.hold('gs://no-such-bucket/run'):
      pass
