import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from mat_jax.checkpoints import orbax_noise, step_directories
from mat_jax.checkpoints.reader import abstract_state
from mat_jax.errors import UserError
from mat_jax.runtime.storage import disk
from mat_jax.runtime.storage.disk import UnreachableError
from mat_jax.training.step import loss_scale
from tests.support.tiny_state import MODEL, equal, like, open_checkpoints, save_steps, tiny_state


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A workdir with the steps 2 and 4."""
  workdir = tmp_path_factory.mktemp('saved')
  save_steps(workdir, 2, 4)
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  """A copy of it, to be damaged."""
  shutil.copytree(saved, tmp_path / 'run')
  return tmp_path / 'run'


def _step(workdir, step):
  return workdir / 'checkpoints' / str(step)


def _largest_file(step):
  files = [path for path in (step / 'training').rglob('*') if path.is_file()]
  return max(files, key=os.path.getsize)


def _truncate_arrays(step):
  largest = _largest_file(step)
  os.truncate(largest, os.path.getsize(largest) // 2)


def _remove_arrays(step):
  _largest_file(step).unlink()


def _garble_index(step):
  file = step / 'training' / 'manifest.ocdbt'
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def _remove_index(step):
  (step / 'training' / 'manifest.ocdbt').unlink()


def _truncate_meta(step):
  os.truncate(step / 'meta' / 'metadata', 10)


def _truncate_description(step):
  os.truncate(step / 'ema' / '_METADATA', 10)


def _empty_description(step):
  (step / 'ema' / '_METADATA').write_text('{"tree_metadata": {}}')


def _other_description(step):
  (step / 'ema' / '_METADATA').write_text('null')


def _remove_item(step):
  shutil.rmtree(step / 'training')


@pytest.mark.parametrize('damage', [
    _truncate_arrays, _remove_arrays, _garble_index, _remove_index, _truncate_meta,
    _truncate_description, _empty_description, _other_description, _remove_item])
def test_a_damaged_checkpoint_is_skipped_and_its_step_saved_again(workdir, caplog, damage):
  damage(_step(workdir, 4))
  checkpoints = open_checkpoints(workdir)
  assert equal(checkpoints.restore(like()), tiny_state(2))
  assert f'{_step(workdir, 4)} cannot be read' in caplog.text
  assert step_directories.newest_step(str(workdir)).endswith('/2')
  checkpoints.save(tiny_state(4))
  checkpoints.close()
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['2', '4', '4.damaged']
  assert equal(open_checkpoints(workdir).restore(like()), tiny_state(4))


# Files and folders of a step that a disk may not give out: '' is the step itself.
_PARTS = ['meta/metadata', 'meta', 'training', 'training/_METADATA', 'training/manifest.ocdbt',
          'training/ocdbt.process_0/d', 'ema', '']


def _make_unreachable(path, workdir):
  """Puts a link to itself in a place; opening it is an error of the system, whoever asks."""
  hidden = path.rename(workdir / f'hidden-{path.name}')
  path.symlink_to(path)
  return hidden


@pytest.fixture
def silence(monkeypatch):
  monkeypatch.setattr(orbax_noise, '_SILENCE_SECONDS', 0.05)


@pytest.mark.parametrize('part', _PARTS)
def test_a_disk_that_does_not_answer_changes_nothing(workdir, silence, monkeypatch, part):
  monkeypatch.setattr(disk, 'DELAYS', (0.0,))
  place = _step(workdir, 4) / part
  hidden = _make_unreachable(place, workdir)
  checkpoints = open_checkpoints(workdir)
  with pytest.raises(UnreachableError, match=f'{_step(workdir, 4)}.*Too many levels .* nothing '
                                             'has been changed'):
    checkpoints.restore(like())
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['2', '4']
  place.unlink()
  hidden.rename(place)
  assert equal(checkpoints.restore(like()), tiny_state(4))


@pytest.mark.parametrize('part', _PARTS)
def test_a_disk_that_answers_again_is_waited_for(workdir, silence, monkeypatch, caplog, part):
  place = _step(workdir, 4) / part
  hidden = _make_unreachable(place, workdir)
  monkeypatch.setattr(disk, 'DELAYS', (0.01, 0.02, 7.0))
  wait = disk.time.sleep

  def repair(seconds):
    if seconds == 7.0:
      place.unlink()
      hidden.rename(place)
    else:
      wait(seconds)

  monkeypatch.setattr(disk.time, 'sleep', repair)
  assert equal(open_checkpoints(workdir).restore(like()), tiny_state(4))
  assert caplog.text.count('It is tried again') == 3


def test_a_newer_checkpoint_out_of_reach_keeps_its_name_beside_a_damaged_one(
    workdir, silence, monkeypatch):
  monkeypatch.setattr(disk, 'DELAYS', (0.0,))
  save_steps(workdir, 6, max_to_keep=3)
  _truncate_arrays(_step(workdir, 6))
  _make_unreachable(_largest_file(_step(workdir, 4)), workdir)
  with pytest.raises(UnreachableError):
    open_checkpoints(workdir).restore(like())
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['2', '4', '6']


@pytest.mark.parametrize('error', [
    ValueError('UNAVAILABLE: no answer'), ValueError('new in this version'), KeyError('x'),
    PermissionError(13, 'Permission denied'), OSError('no number')])
@pytest.mark.parametrize('method', ['metadata', 'restore'])
def test_an_error_that_is_not_known_is_no_damage(workdir, silence, monkeypatch, error, method):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(ocp.PyTreeCheckpointHandler, method, fail)
  with pytest.raises(UnreachableError, match='after 4 attempts'):
    open_checkpoints(workdir).restore(like())
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['2', '4']


def test_a_list_of_checkpoints_out_of_reach_is_not_taken_for_none(workdir):
  checkpoints = open_checkpoints(workdir)
  folder = workdir / 'checkpoints'
  folder.rename(workdir / 'hidden')
  folder.symlink_to(folder)
  for read in (lambda: checkpoints.restore(like()),
               lambda: step_directories.newest_step(str(workdir)),
               lambda: step_directories.complete_steps(str(workdir)),
               lambda: step_directories.best_step(str(workdir))):
    with pytest.raises(UnreachableError, match=f'{folder} cannot be read'):
      read()


def test_a_damaged_checkpoint_that_cannot_be_renamed_is_named(workdir, monkeypatch):
  _remove_item(_step(workdir, 4))
  checkpoints = open_checkpoints(workdir)

  def fail(*args):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(os, 'rename', fail)
  with pytest.raises(UserError, match=r'4 is damaged \(its training is missing\) and cannot be '
                                      'renamed: Permission denied'):
    checkpoints.restore(like())


def test_threads_that_go_on_after_a_failed_read_keep_quiet(tmp_path, monkeypatch):
  many = {str(i): jnp.full((20000,), i) for i in range(200)}
  checkpoints = open_checkpoints(tmp_path)
  checkpoints.save(tiny_state(4).replace(g_params=many))
  checkpoints.close()
  _truncate_arrays(_step(tmp_path, 4))
  heard = []
  monkeypatch.setattr(sys, 'unraisablehook', heard.append)
  with pytest.raises(UserError, match='none of the checkpoints'):
    checkpoints.restore(like().replace(g_params=jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), many)))
  time.sleep(0.3)
  assert not heard


def test_a_run_does_not_start_anew_silently(workdir):
  for step in (2, 4):
    _truncate_arrays(_step(workdir, step))
  with pytest.raises(UserError, match=r'none .* can be read \(4: .*; 2: .*remove the folder'):
    open_checkpoints(workdir).restore(like())
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['2', '4'], 'nothing was touched'


def test_leftovers_of_first_saves_do_not_stop_a_run(workdir, caplog):
  for step in (2, 4):
    _remove_item(_step(workdir, step))
  assert open_checkpoints(workdir).restore(like()) is None
  assert caplog.text.count('its training is missing') == 2


def _edit_meta(step, **fields):
  path = step / 'meta' / 'metadata'
  meta = json.loads(path.read_text()) | fields
  path.write_text(json.dumps({name: value for name, value in meta.items() if value is not None}))


@pytest.mark.parametrize('fields,message', [
    ({'format': None}, r'another version .*format 1, this one has 2.*init_from'),
    ({'format': 3}, 'format 3, this one has 2'),
    ({'model': MODEL | {'width': 1.0}}, 'model.width 1.0, the config says 0.0625'),
])
def test_another_version_or_model_is_no_damage(workdir, fields, message):
  _edit_meta(_step(workdir, 4), **fields)
  with pytest.raises(UserError, match=message):
    open_checkpoints(workdir).restore(like())
  assert _step(workdir, 4).is_dir()


def test_a_converted_model_is_not_resumed(workdir):
  _step(workdir, 4).joinpath('training').rename(_step(workdir, 4) / 'networks')
  with pytest.raises(UserError, match='converted model.*init_from'):
    open_checkpoints(workdir).restore(like())


def test_another_optimizer_is_no_damage(workdir):
  checkpoints = open_checkpoints(workdir)
  kernel = like().g_params['layer']['kernel']
  with pytest.raises(UserError, match=r'has no g_optimizer.momentum.kernel, this run has g_opt.*'
                                      r'shape \(20, 30\); set the optimizer'):
    checkpoints.restore(like().replace(
        g_optimizer=like().g_optimizer | {'momentum': {'kernel': kernel}}))
  with pytest.raises(UserError, match='has g_optimizer.count of shape .*, this run has no g_opt'):
    checkpoints.restore(like().replace(g_optimizer={'layer': {'kernel': kernel}}))


_PROCESS = textwrap.dedent('''
  import sys
  import jax
  jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
  import os
  from mat_jax.runtime import sharding
  from mat_jax.checkpoints import step_directories
  from mat_jax.checkpoints.reader import abstract_state
  from mat_jax.checkpoints.manager import Best
  from tests.support.tiny_state import equal, open_checkpoints, tiny_state

  workdir = sys.argv[3]
  replicated = sharding.replicated(sharding.make_mesh())
  place = jax.jit(lambda tree: tree, out_shardings=replicated)
  like = abstract_state(tiny_state(0), replicated)
  checkpoints = open_checkpoints(workdir, best=Best('psnr'))
  state = checkpoints.restore(like)
  assert equal(jax.device_get(state), tiny_state(2)), 'step 4 is damaged'
  assert step_directories.newest_step(workdir).endswith('/2')
  for step in (6, 8):
    checkpoints.save(place(tiny_state(step)), {'psnr': float(step)})
  checkpoints.close()
  jax.experimental.multihost_utils.sync_global_devices('saved')
  assert step_directories.newest_step(workdir).endswith('/8')
  assert equal(jax.device_get(open_checkpoints(workdir).restore(like)), tiny_state(8))
''')


_UNREACHABLE = textwrap.dedent('''
  import sys
  import jax
  jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
  from mat_jax.checkpoints import restore
  from mat_jax.runtime import sharding
  from mat_jax.runtime.storage import disk
  from mat_jax.checkpoints.reader import abstract_state
  from mat_jax.runtime.storage.disk import UnreachableError
  from tests.support.tiny_state import open_checkpoints, tiny_state

  disk.DELAYS = (0, 0, 0)
  like = abstract_state(tiny_state(0), sharding.replicated(sharding.make_mesh()))
  checkpoints = open_checkpoints(sys.argv[3])
  reads = restore.read_arrays
  def fail(*args):
    raise OSError(5, 'Input/output error')
  if jax.process_index() == 1:
    restore.read_arrays = lambda path, like: disk.read(fail, path)
  try:
    checkpoints.restore(like)
    raise AssertionError('it was read')
  except UnreachableError as error:
    assert 'on another process' in str(error) or jax.process_index() == 1, error
  restore.read_arrays = reads
  if jax.process_index() == 0:
    restore.step_numbers = lambda path: disk.read(fail, path)
  try:
    checkpoints.restore(like)
    raise AssertionError('it was listed')
  except UnreachableError as error:
    assert 'on process 0' in str(error) or jax.process_index() == 0, error
''')


@pytest.mark.slow
def test_two_processes_stop_alike_when_one_cannot_read(workdir):
  _run_two(_UNREACHABLE, workdir)
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['2', '4']


@pytest.mark.slow
def test_two_processes_save_and_resume_alike(workdir):
  _truncate_arrays(_step(workdir, 4))
  _run_two(_PROCESS, workdir)
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['4.damaged', '6', '8']


def _run_two(program, workdir):
  """Runs a program as two processes of `jax.distributed`."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    address = f'localhost:{probe.getsockname()[1]}'
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  processes = [
      subprocess.Popen([sys.executable, '-c', program, address, str(index), str(workdir)],
                       stderr=subprocess.PIPE, text=True, env=environment)
      for index in range(2)]
  errors = [process.communicate(timeout=120)[1] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], errors


def test_the_loss_scale_of_a_run_in_float16_comes_and_goes_with_it(tmp_path):
  with_scale = tiny_state(2).replace(loss_scale=loss_scale.fresh())
  without = with_scale.replace(loss_scale=None)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  for name, saved in (('float16', with_scale), ('float32', without)):
    checkpoints = open_checkpoints(tmp_path / name)
    checkpoints.save(saved)
    checkpoints.wait()
    assert equal(checkpoints.restore(abstract_state(saved, sharding)), saved), 'exactly'
    for wanted in (with_scale, without):
      found = checkpoints.restore(abstract_state(wanted, sharding))
      assert equal(found.replace(loss_scale=None), without)
      assert (found.loss_scale is None) == (None in (saved.loss_scale, wanted.loss_scale))
    checkpoints.close()
  described = (tmp_path / 'float32' / 'checkpoints' / '2' / 'training' / '_METADATA').read_text()
  assert 'g_params' in described and 'loss_scale' not in described, 'as before there was one'
