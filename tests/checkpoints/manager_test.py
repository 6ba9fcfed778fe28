import os
import re
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.checkpoints import step_directories
from mat_jax.checkpoints.manager import Best
from mat_jax.errors import UserError
from tests.support.tiny_state import equal, like, open_checkpoints, save_steps, tiny_state


def _names(workdir):
  return sorted(os.listdir(workdir / 'checkpoints'))


def _warnings(caplog):
  return [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']


def test_restores_what_was_saved_although_the_buffers_are_used_again(tmp_path):
  state = tiny_state(3)
  expected = jax.tree.map(np.array, state)
  checkpoints = open_checkpoints(tmp_path)
  checkpoints.save(state)
  after = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)(state)
  jax.tree.map(lambda x: x.delete(), (state, after))
  checkpoints.close()
  restored = open_checkpoints(tmp_path).restore(like())
  assert equal(restored, expected)
  assert jax.tree.structure(restored) == jax.tree.structure(expected)


def test_the_meta_tells_the_run_and_the_position(tmp_path):
  save_steps(tmp_path, 3, config={'seed': 1, 'range': (0.0, 1.0)}, images=33)
  meta = step_directories.read_meta(str(tmp_path / 'checkpoints' / '3'))
  assert (meta['step'], meta['images_seen'], meta['images']) == (3, 12, 33)
  assert meta['config'] == {'seed': 1, 'range': [0.0, 1.0]}


@pytest.mark.parametrize('higher_is_better,values,kept', [
    (True, {1: 20.0, 2: 30.0, 3: None, 4: float('nan'), 5: 25.0}, ['2', '4', '5']),
    (False, {1: 0.5, 2: 0.1, 3: None, 4: float('inf'), 5: 0.2}, ['2', '4', '5']),
    (True, {1: 20.0, 2: 30.0, 3: 30.0, 4: None}, ['3', '4']),
    (True, {1: None, 2: float('nan'), 3: None}, ['2', '3']),
])
def test_keeps_the_best_beside_the_newest(tmp_path, higher_is_better, values, kept):
  for step, value in values.items():  # every save by another process, which knows only the disk
    checkpoints = open_checkpoints(tmp_path, best=Best('score', higher_is_better))
    checkpoints.save(tiny_state(step), None if value is None else {'other': 1.0, 'score': value})
    checkpoints.close()
  assert _names(tmp_path) == kept
  before = step_directories.read_meta(str(tmp_path / 'checkpoints' / kept[-2]))
  assert all(map(np.isfinite, before['metrics'].values())), 'JSON knows finite numbers only'
  best = str(tmp_path / 'checkpoints' / kept[0])
  if any(value and np.isfinite(value) for value in values.values()):
    assert step_directories.best_step(str(tmp_path)) == best
    assert step_directories.find_step(f'{tmp_path}/best') == best
  else:
    assert step_directories.best_step(str(tmp_path)) is None
  assert step_directories.find_step(str(tmp_path)) == str(tmp_path / 'checkpoints' / kept[-1])


def test_a_step_that_is_there_is_replaced_by_one_with_metrics_only(tmp_path):
  save_steps(tmp_path, 3)
  checkpoints, other = open_checkpoints(tmp_path), tiny_state(5).replace(step=jnp.int32(3))
  checkpoints.save(other)
  assert equal(checkpoints.restore(like()), tiny_state(3))
  checkpoints.save(other, {'psnr': 20.0})
  checkpoints.wait()
  assert equal(checkpoints.restore(like()), other)
  assert step_directories.newest_step(str(tmp_path)).endswith('/3')


def test_nothing_is_saved_yet(tmp_path):
  checkpoints = open_checkpoints(tmp_path)
  assert step_directories.newest_step(str(tmp_path)) is None
  assert checkpoints.restore(like()) is None


def _unreachable(path):
  """Puts a link to itself in the place of a file; returns what puts the file back."""
  hidden = path.rename(path.with_name('hidden'))
  path.symlink_to(path)
  return lambda: hidden.rename(path)


def test_nothing_is_removed_while_the_best_is_not_known(tmp_path, caplog):
  checkpoints = open_checkpoints(tmp_path, max_to_keep=1, best=Best('psnr'))
  for step, psnr in ((1, 30.0), (2, 20.0)):
    checkpoints.save(tiny_state(step), {'psnr': psnr})
    checkpoints.wait()
  assert _names(tmp_path) == ['1', '2']
  repair = _unreachable(tmp_path / 'checkpoints' / '1' / 'meta' / 'metadata')
  checkpoints.save(tiny_state(3), {'psnr': 25.0})
  checkpoints.wait()
  assert _names(tmp_path) == ['1', '2', '3']
  assert re.search('1/meta/metadata cannot be read .* all older checkpoints are kept', caplog.text)
  repair()
  checkpoints.save(tiny_state(4), {'psnr': 25.0})
  checkpoints.close()
  assert _names(tmp_path) == ['1', '4']


def test_a_step_of_which_the_disk_does_not_tell_is_saved_again(tmp_path):
  save_steps(tmp_path, 3)
  _unreachable(tmp_path / 'checkpoints' / '3' / 'meta' / 'metadata')
  save_steps(tmp_path, 3)
  assert _names(tmp_path) == ['3']
  assert equal(open_checkpoints(tmp_path).restore(like()), tiny_state(3))


def test_what_is_removed_has_lost_its_name_before(tmp_path, monkeypatch):
  """A run that is killed in the middle leaves nothing that looks like a checkpoint."""
  checkpoints = open_checkpoints(tmp_path, max_to_keep=1)
  checkpoints.save(tiny_state(1))
  checkpoints.wait()
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', lambda *args, **kwargs: None)
    checkpoints.save(tiny_state(2))
    checkpoints.wait()
    checkpoints.save(tiny_state(2), {'psnr': 20.0})
    checkpoints.close()
  assert _names(tmp_path) == ['1.removed', '2', '2.replaced']
  assert equal(open_checkpoints(tmp_path).restore(like()), tiny_state(2))
  assert _names(tmp_path) == ['2']


def test_a_step_is_back_whose_successor_did_not_get_the_name(tmp_path):
  save_steps(tmp_path, 3)
  folder = tmp_path / 'checkpoints'
  shutil.copytree(folder / '3', folder / '3.partial')
  (folder / '3').rename(folder / '3.replaced')
  checkpoints = open_checkpoints(tmp_path)
  assert _names(tmp_path) == ['3'] and equal(checkpoints.restore(like()), tiny_state(3))


def test_a_step_keeps_its_name_when_its_successor_cannot_get_it(tmp_path, monkeypatch, caplog):
  save_steps(tmp_path, 3)
  rename = os.rename

  def fail(source, target):
    if str(source).endswith('.partial'):
      raise OSError(5, 'Input/output error')
    rename(source, target)

  monkeypatch.setattr(os, 'rename', fail)
  checkpoints = open_checkpoints(tmp_path)
  checkpoints.save(tiny_state(3), {'psnr': 20.0})
  checkpoints.close()
  assert 'step 3 was not saved: Input/output error' in caplog.text
  assert _names(tmp_path) == ['3']


def test_an_old_step_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
  save_steps(tmp_path, 1, max_to_keep=1)
  rename = os.rename

  def fail(source, target):
    if str(target).endswith('.removed'):
      raise OSError(13, 'Permission denied')
    rename(source, target)

  monkeypatch.setattr(os, 'rename', fail)
  save_steps(tmp_path, 2, max_to_keep=1)
  assert 'checkpoints/1 cannot be removed (Permission denied)' in caplog.text
  assert _names(tmp_path) == ['1', '2']


@pytest.mark.parametrize('name', ['6.partial', '6.orbax-checkpoint-tmp'])
def test_a_save_that_was_cut_off_is_removed(tmp_path, caplog, name):
  save_steps(tmp_path, 4)
  shutil.copytree(tmp_path / 'checkpoints' / '4', tmp_path / 'checkpoints' / name)
  checkpoints = open_checkpoints(tmp_path)
  assert equal(checkpoints.restore(like()), tiny_state(4))
  assert [name in warning for warning in _warnings(caplog)] == [True]
  assert _names(tmp_path) == ['4']


def test_a_full_disk_is_a_warning_and_the_next_save_is_tried(tmp_path, caplog, monkeypatch):
  checkpoints = open_checkpoints(tmp_path, max_to_keep=1)
  checkpoints.save(tiny_state(1))
  checkpoints.wait()
  with monkeypatch.context() as patch:
    usage = shutil.disk_usage(tmp_path)
    patch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    checkpoints.save(tiny_state(2))
    checkpoints.wait()
  assert len(_warnings(caplog)) == 1
  assert re.search('step 2 was not saved.*MB are free', _warnings(caplog)[0])
  assert _names(tmp_path) == ['1']
  checkpoints.save(tiny_state(3))
  checkpoints.close()
  assert _names(tmp_path) == ['3']


_FAILING_WRITE = textwrap.dedent('''
  import resource, sys
  from absl import logging
  from tests.support.tiny_state import open_checkpoints, tiny_state

  logging.set_verbosity(logging.WARNING)
  checkpoints = open_checkpoints(sys.argv[1], max_to_keep=1)
  checkpoints.save(tiny_state(1))
  checkpoints.wait()
  unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), unlimited[1]))
  checkpoints.save(tiny_state(2))
  checkpoints.wait()
  import os
  print(sorted(os.listdir(sys.argv[1] + '/checkpoints')))
  resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
  checkpoints.save(tiny_state(3))
  checkpoints.close()
  print(sorted(os.listdir(sys.argv[1] + '/checkpoints')))
''')


# The arrays, or else Orbax's description of them, do not fit.
@pytest.mark.parametrize('limit', [100, 4000])
def test_a_write_that_fails_leaves_the_old_checkpoint_and_no_traceback(tmp_path, limit):
  run = subprocess.run([sys.executable, '-c', _FAILING_WRITE, str(tmp_path), str(limit)],
                       capture_output=True, text=True, check=True)
  assert run.stdout.splitlines() == ["['1']", "['3']"]
  assert run.stderr.count('step 2 was not saved: File too large') == 1
  assert 'Traceback' not in run.stderr and 'Error' not in run.stderr


def test_mistakes_in_the_program_are_not_taken_for_a_full_disk(tmp_path):
  checkpoints = open_checkpoints(tmp_path)
  checkpoints.save(tiny_state(1).replace(g_params={'empty': jnp.zeros((0, 3))}))
  with pytest.raises(ValueError, match='zero size'):
    checkpoints.wait()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='file/run/checkpoints cannot be written'):
    open_checkpoints(tmp_path / 'file' / 'run')
