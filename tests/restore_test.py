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
import pytest

from mat_jax.errors import UserError
from tests.tiny_state import MODEL, equal, like, open_checkpoints, save_steps, tiny_state


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


def _truncate_arrays(step):
  files = [path for path in (step / 'training').rglob('*') if path.is_file()]
  largest = max(files, key=os.path.getsize)
  os.truncate(largest, os.path.getsize(largest) // 2)


def _truncate_meta(step):
  os.truncate(step / 'meta' / 'metadata', 10)


def _truncate_description(step):
  os.truncate(step / 'ema' / '_METADATA', 10)


def _remove_item(step):
  shutil.rmtree(step / 'training')


@pytest.mark.parametrize('damage', [
    _truncate_arrays, _truncate_meta, _truncate_description, _remove_item])
def test_a_damaged_checkpoint_is_skipped_and_its_step_saved_again(workdir, caplog, damage):
  damage(_step(workdir, 4))
  checkpoints = open_checkpoints(workdir)
  assert equal(checkpoints.restore(like()), tiny_state(2))
  assert f'{_step(workdir, 4)} cannot be read' in caplog.text
  assert checkpoints.latest_step() == 2
  checkpoints.save(tiny_state(4))
  checkpoints.close()
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['2', '4', '4.damaged']
  assert equal(open_checkpoints(workdir).restore(like()), tiny_state(4))


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
  from mat_jax import sharding
  from mat_jax.checkpoint import abstract_state
  from mat_jax.checkpoints import Best
  from tests.tiny_state import equal, open_checkpoints, tiny_state

  workdir = sys.argv[3]
  replicated = sharding.replicated(sharding.make_mesh())
  place = jax.jit(lambda tree: tree, out_shardings=replicated)
  like = abstract_state(tiny_state(0), replicated)
  checkpoints = open_checkpoints(workdir, best=Best('psnr'))
  state = checkpoints.restore(like)
  assert equal(jax.device_get(state), tiny_state(2)), 'step 4 is damaged'
  assert checkpoints.latest_step() == 2
  for step in (6, 8):
    checkpoints.save(place(tiny_state(step)), {'psnr': float(step)})
  checkpoints.close()
  jax.experimental.multihost_utils.sync_global_devices('saved')
  assert checkpoints.latest_step() == 8
  assert equal(jax.device_get(open_checkpoints(workdir).restore(like)), tiny_state(8))
''')


@pytest.mark.slow
def test_two_processes_save_and_resume_alike(workdir):
  _truncate_arrays(_step(workdir, 4))
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    address = f'localhost:{probe.getsockname()[1]}'
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  processes = [
      subprocess.Popen([sys.executable, '-c', _PROCESS, address, str(index), str(workdir)],
                       stderr=subprocess.PIPE, text=True, env=environment)
      for index in range(2)]
  errors = [process.communicate(timeout=120)[1] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], errors
  assert sorted(os.listdir(workdir / 'checkpoints')) == ['4.damaged', '6', '8']
