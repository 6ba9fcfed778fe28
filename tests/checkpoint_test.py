import json
import os
import shutil

import ml_collections
from ml_collections import config_dict
import numpy as np
import pytest

from mat_jax import checkpoint
from mat_jax.errors import UserError
from tests.tiny_state import MODEL, equal, like, open_checkpoints, save_steps, tiny_state


def _make_step(workdir, step, **meta):
  """A step directory with a meta, and something in the place of its arrays."""
  folder = workdir / 'checkpoints' / str(step)
  for item in ('meta', 'ema'):
    (folder / item).mkdir(parents=True)
  (folder / 'ema' / 'arrays').write_text('')
  (folder / 'meta' / 'metadata').write_text(json.dumps({'model': MODEL, 'step': step, **meta}))
  return folder


def test_finds_a_step_from_workdir_folder_and_step(tmp_path):
  for step in (4, 12):
    expected = str(_make_step(tmp_path, step))
  for path in (str(tmp_path), os.path.join(tmp_path, 'checkpoints'), expected):
    assert checkpoint.find_step(path) == expected


@pytest.mark.parametrize('damage', ['meta', 'ema'])
def test_an_incomplete_step_is_passed_over(tmp_path, caplog, damage):
  expected, newest = (_make_step(tmp_path, step) for step in (4, 12))
  shutil.rmtree(newest / damage)
  assert checkpoint.find_step(str(tmp_path)) == str(expected)
  assert f'{newest} is incomplete' in caplog.text
  shutil.rmtree(expected / damage)
  with pytest.raises(UserError, match='none of the checkpoints in .* is complete'):
    checkpoint.find_step(str(tmp_path))


def test_an_empty_folder_is_no_checkpoint(tmp_path):
  for path in (str(tmp_path), f'{tmp_path}/best'):
    with pytest.raises(UserError, match=f'no checkpoint in {tmp_path};'):
      checkpoint.restore_ema(path)


@pytest.mark.parametrize('meta', [
    {}, {'best': None, 'metrics': {'psnr': 20.0}},
    {'best': {'metric': 'psnr', 'higher_is_better': True}, 'metrics': {'ssim': 0.5}}])
def test_without_a_metric_none_is_the_best(tmp_path, meta):
  _make_step(tmp_path, 4, **meta)
  with pytest.raises(UserError, match='leave out /best'):
    checkpoint.find_step(f'{tmp_path}/best')


def test_a_workdir_may_be_called_best(tmp_path):
  expected = _make_step(tmp_path / 'best', 4)
  assert checkpoint.find_step(f'{tmp_path}/best') == str(expected)


def test_the_newest_checkpoint_says_what_is_best(tmp_path):
  low, high = ({'metric': 'l1', 'higher_is_better': better} for better in (False, True))
  first = _make_step(tmp_path, 4, best=high, metrics={'l1': 0.1})
  _make_step(tmp_path, 8, best=high, metrics={'l1': 0.3})
  _make_step(tmp_path, 12, best=low, metrics={'l1': 0.2})
  assert checkpoint.best_step(str(tmp_path)) == str(first)


def test_the_checkpoint_alone_tells_its_model(trained):
  workdir, config = trained
  found = checkpoint.restore_ema(workdir)
  assert found.model.to_dict() == config.model.to_dict()
  assert (found.step, found.images_seen) == (4, 16)
  assert set(found.variables) == {'params', 'buffers'}
  assert np.any(found.variables['buffers']['mapping']['w_avg'])


def test_reads_the_networks_alone(tmp_path):
  save_steps(tmp_path, 3)
  state = tiny_state(3)
  ema = checkpoint.restore_ema(str(tmp_path))
  assert equal(ema.variables, {'params': state.ema_params, 'buffers': state.ema_buffers})
  found = checkpoint.restore_networks(str(tmp_path), ('d_params', 'ema_buffers'))
  assert equal(found.networks, {'d_params': state.d_params, 'ema_buffers': state.ema_buffers})


def test_a_damaged_checkpoint_is_named(tmp_path):
  save_steps(tmp_path, 3)
  ema = tmp_path / 'checkpoints' / '3' / 'ema'
  for path in ema.rglob('*'):
    if path.is_file() and path.name != '_METADATA':
      os.truncate(path, path.stat().st_size // 2)
  with pytest.raises(UserError, match=f'{ema} cannot be read'):
    checkpoint.restore_ema(str(tmp_path))
  with pytest.raises(UserError, match='none of the checkpoints'):
    open_checkpoints(tmp_path).restore(like())


def test_the_first_differing_field_is_named():
  checkpoint.check_architecture(MODEL, {**MODEL, 'dtype': 'bfloat16'}, 'x')
  checkpoint.check_architecture(MODEL, {**MODEL, 'mapping_layers': None}, 'x')
  with pytest.raises(UserError, match='--config.model.width=0.0625'):
    checkpoint.check_architecture(MODEL, {**MODEL, 'width': 0.5}, 'x')


def test_an_open_depth_is_that_of_the_checkpoint():
  model = ml_collections.ConfigDict({**MODEL, 'dtype': 'bfloat16'})
  model.mapping_layers = config_dict.placeholder(int)
  fitted = checkpoint.fit_model(model, MODEL, 'x')
  assert fitted.to_dict() == {**MODEL, 'dtype': 'bfloat16'}
  assert model.mapping_layers is None


@pytest.mark.parametrize('field,value', [('mapping_layers', 8), ('width', 1.0)])
def test_a_given_depth_or_width_is_not_changed_silently(field, value):
  model = ml_collections.ConfigDict({**MODEL, field: value})
  with pytest.raises(UserError, match=f'model.{field} {MODEL[field]}, the config says {value}'):
    checkpoint.fit_model(model, MODEL, 'x')
