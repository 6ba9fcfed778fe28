"""Checkpoints in a bucket, on a server on loopback."""

import os
import subprocess
import sys
import tempfile
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.checkpoints import bucket_steps, manager, packed, reader, step_directories
from mat_jax.checkpoints.manager import Best
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets
from tests.support.paths import ROOT
from tests.support.tiny_state import MODEL, equal, like, open_checkpoints, save_steps, tiny_state

_META = step_directories.META


def _steps(workdir):
  return buckets.listed(f'{workdir}/checkpoints')


def _warnings(caplog):
  return [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']


def test_restores_what_was_saved_and_keeps_the_newest(bucket):
  workdir, _ = bucket
  save_steps(workdir, 1, 2, 3, config={'seed': 1})
  assert _steps(workdir) == ['2', '3']
  checkpoints = open_checkpoints(workdir + '/')
  assert equal(checkpoints.restore(like()), tiny_state(3))
  newest = f'{workdir}/checkpoints/3'
  for path in (workdir, workdir + '/', f'{workdir}/checkpoints', newest):
    assert step_directories.find_step(path) == newest
  assert step_directories.read_meta(newest)['config'] == {'seed': 1}
  assert list(step_directories.complete_steps(workdir)) == [2, 3]


def test_arrays_are_in_objects_of_bounded_size(bucket, monkeypatch):
  workdir, server = bucket
  monkeypatch.setattr(manager, '_OBJECT_BYTES', 1 << 20)
  large = {str(i): jnp.full((500, 500), i, jnp.float32) for i in range(8)}
  checkpoints = open_checkpoints(workdir)
  checkpoints.save(tiny_state(2).replace(g_params=large))
  checkpoints.close()
  prefix = f'{workdir.removeprefix("gs://bucket/")}/checkpoints/2/training/'
  sizes = [len(server.read(name)) for name in server.names(prefix)]
  assert sum(sizes) > 8_000_000 > 3 * max(sizes)
  found = reader.restore_networks(workdir).networks['g_params']
  np.testing.assert_array_equal(found['7'], large['7'])


def test_the_averaged_generator_and_the_networks_are_read_alone(bucket):
  workdir, server = bucket
  save_steps(workdir, 4)
  before = len(server.requests)
  found = reader.restore_ema(workdir)
  assert (found.step, found.model.to_dict()) == (4, MODEL)
  assert found.path == f'{workdir}/checkpoints/4'
  np.testing.assert_array_equal(found.variables['params']['layer']['kernel'],
                                tiny_state(4).ema_params['layer']['kernel'])
  assert not [name for _, name in server.requests[before:] if '/4/training/' in name]
  networks = reader.restore_networks(workdir).networks
  np.testing.assert_array_equal(networks['d_params']['layer']['kernel'],
                                tiny_state(4).d_params['layer']['kernel'])


def test_the_best_is_kept_and_found(bucket):
  workdir, _ = bucket
  for step, score in enumerate((20.0, 30.0, 25.0, 26.0), start=1):
    checkpoints = open_checkpoints(workdir, best=Best('score'))
    checkpoints.save(tiny_state(step), {'score': score})
    checkpoints.close()
  assert _steps(workdir) == ['2', '3', '4']
  assert step_directories.find_step(f'{workdir}/best') == f'{workdir}/checkpoints/2'


def test_a_step_is_replaced_by_one_with_metrics_only(bucket):
  workdir, _ = bucket
  save_steps(workdir, 3)
  checkpoints, other = open_checkpoints(workdir), tiny_state(5).replace(step=jnp.int32(3))
  checkpoints.save(other)
  assert equal(checkpoints.restore(like()), tiny_state(3))
  checkpoints.save(other, {'psnr': 20.0})
  checkpoints.close()
  assert equal(checkpoints.restore(like()), other)
  assert _steps(workdir) == ['3']


@pytest.mark.parametrize('requests', [
    *(pytest.param(count, marks=pytest.mark.slow) for count in range(1, 60, 4)), 10, 31])
def test_a_process_that_is_killed_at_any_request_leaves_a_checkpoint(bucket, requests):
  workdir, server = bucket
  save_steps(workdir, 3, 4)
  program = textwrap.dedent('''
      import os, signal, sys
      import jax.numpy as jnp
      from mat_jax.runtime.storage import buckets
      from tests.support.tiny_state import open_checkpoints, tiny_state
      store, left = buckets._store, int(sys.argv[2])
      class Store:
        def __init__(self, path):
          self._inner = store(path)
        def read(self, *args, **kwargs):
          return self._inner.read(*args, **kwargs)
        def list(self, *args, **kwargs):
          return self._inner.list(*args, **kwargs)
        def write(self, *args, **kwargs):
          global left
          left -= 1
          if not left:
            os.kill(os.getpid(), signal.SIGKILL)
          found = self._inner.write(*args, **kwargs)
          found.result()
          return found
      buckets._store = Store
      checkpoints = open_checkpoints(sys.argv[1], 1)
      checkpoints.save(tiny_state(14).replace(step=jnp.int32(4)), {'psnr': 1.0})
      checkpoints.close()
      ''')
  code = subprocess.run([sys.executable, '-c', program, workdir, str(requests)], cwd=ROOT).returncode
  assert code in (0, -9)
  checkpoints = open_checkpoints(workdir)
  found = checkpoints.restore(like())
  new = tiny_state(14).replace(step=jnp.int32(4))
  assert equal(found, tiny_state(4)) or equal(found, new)
  assert equal(found, new) or code
  assert not [name for name in _steps(workdir) if not name.isdigit()]
  prefix = workdir.removeprefix('gs://bucket/')
  for step in _steps(workdir):
    assert server.names(f'{prefix}/checkpoints/{step}/{_META}')


def test_a_save_that_was_cut_off_is_no_checkpoint_and_is_removed(bucket, caplog):
  workdir, server = bucket
  save_steps(workdir, 3, 4)
  prefix = workdir.removeprefix('gs://bucket/')
  server.remove(f'{prefix}/checkpoints/4/{_META}')
  assert step_directories.newest_step(workdir) == f'{workdir}/checkpoints/3'
  checkpoints = open_checkpoints(workdir)
  assert _steps(workdir) == ['3'] and equal(checkpoints.restore(like()), tiny_state(3))
  assert [f'Removing {workdir}/checkpoints/4, a save that was cut off.'] == [
      text for text in _warnings(caplog) if 'Removing' in text]


def test_what_killed_processes_left_on_the_disk_is_removed_after_an_hour(
    bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  ended = subprocess.Popen([sys.executable, '-c', ''])
  ended.wait()
  ages = {f'mat-jax-checkpoint-{ended.pid}-old': 4000, f'mat-jax-checkpoint-{ended.pid}-new': 60,
          f'mat-jax-checkpoint-{os.getpid()}-old': 4000, 'mat-jax-checkpoint-x': 4000,
          f'other-{ended.pid}-old': 4000}
  for name, age in ages.items():
    (tmp_path / name).mkdir()
    os.utime(tmp_path / name, (time.time() - age,) * 2)
  save_steps(bucket[0], 1)
  assert sorted(os.listdir(tmp_path)) == sorted(list(ages)[1:])


def test_a_damaged_step_is_renamed(bucket, caplog):
  workdir, server = bucket
  save_steps(workdir, 3, 4)
  prefix = f'{workdir.removeprefix("gs://bucket/")}/checkpoints/4'
  for name in server.names(f'{prefix}/training/'):
    if '/d/' in name:
      server.write(name, server.read(name)[:100])
  assert equal(open_checkpoints(workdir).restore(like()), tiny_state(3))
  assert _steps(workdir) == ['3', '4.damaged']
  assert server.names(f'{prefix}.damaged/{_META}')
  assert f'{workdir}/checkpoints/4 cannot be read' in _warnings(caplog)[-1]


def test_a_save_that_fails_leaves_the_older_ones(bucket, monkeypatch, caplog):
  workdir, _ = bucket
  save_steps(workdir, 3)
  upload = buckets.upload

  def fail(*args):
    if args[1].endswith('/4'):
      raise OSError(5, 'UNAVAILABLE: no answer', args[1])
    upload(*args)

  monkeypatch.setattr(buckets, 'upload', fail)
  save_steps(workdir, 4)
  assert 'step 4 was not saved: UNAVAILABLE: no answer' in _warnings(caplog)[-1]
  assert equal(open_checkpoints(workdir).restore(like()), tiny_state(3))


def test_a_failed_replacement_puts_the_older_one_back(bucket, monkeypatch, caplog):
  workdir, _ = bucket
  save_steps(workdir, 3)
  checkpoints = open_checkpoints(workdir)

  def fail(*args):
    raise OSError(5, 'UNAVAILABLE: no answer', args[1])

  monkeypatch.setattr(buckets, 'upload', fail)
  checkpoints.save(tiny_state(3), {'psnr': 1.0})
  checkpoints.close()
  assert equal(checkpoints.restore(like()), tiny_state(3)) and _steps(workdir) == ['3']


def test_a_reader_finds_out_that_a_step_was_removed_meanwhile(bucket):
  workdir, _ = bucket
  save_steps(workdir, 3, 4)
  newest = f'{workdir}/checkpoints/4'

  def remove_and_fail(step):
    bucket_steps.remove(step)
    raise UserError('it cannot be read')

  with pytest.raises(step_directories.RemovedError, match=f'{newest} was removed'):
    step_directories.read_present(newest, remove_and_fail)


@pytest.mark.parametrize('path', ['', '/checkpoints/7', '/best', '/x.safetensors'])
def test_what_is_not_there_is_named(bucket, path):
  with pytest.raises(UserError, match=f'{bucket[0]}.*') as caught:
    reader.restore_ema(bucket[0] + path)
  assert '/tmp' not in str(caught.value)


def test_a_packed_model(bucket):
  path, state = f'{bucket[0]}/small.safetensors', tiny_state(1)
  fields = {'ema_params': state.ema_params, 'ema_buffers': {'x': jnp.ones(3)}}
  packed.write(path, packed.Packed({'model': MODEL, 'step': 1, 'images_seen': 4}, fields))
  found = reader.restore_ema(path)
  assert found.path == path and found.step == 1
  assert jax.tree.structure(found.variables['params']) == jax.tree.structure(state.ema_params)
