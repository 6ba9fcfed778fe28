import json
import os
import shutil

import pytest

from mat_jax import checkpoint, step_directories
from mat_jax.errors import UserError
from tests.tiny_state import MODEL


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
    assert step_directories.find_step(path) == expected


@pytest.mark.parametrize('damage', ['meta', 'ema'])
def test_an_incomplete_step_is_passed_over(tmp_path, caplog, damage):
  expected, newest = (_make_step(tmp_path, step) for step in (4, 12))
  shutil.rmtree(newest / damage)
  assert step_directories.find_step(str(tmp_path)) == str(expected)
  assert f'{newest} is incomplete' in caplog.text
  shutil.rmtree(expected / damage)
  with pytest.raises(UserError, match='none of the checkpoints in .* is complete'):
    step_directories.find_step(str(tmp_path))


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
    step_directories.find_step(f'{tmp_path}/best')


def test_a_workdir_may_be_called_best(tmp_path):
  expected = _make_step(tmp_path / 'best', 4)
  assert step_directories.find_step(f'{tmp_path}/best') == str(expected)


def test_the_newest_checkpoint_says_what_is_best(tmp_path):
  low, high = ({'metric': 'l1', 'higher_is_better': better} for better in (False, True))
  first = _make_step(tmp_path, 4, best=high, metrics={'l1': 0.1})
  _make_step(tmp_path, 8, best=high, metrics={'l1': 0.3})
  _make_step(tmp_path, 12, best=low, metrics={'l1': 0.2})
  assert step_directories.best_step(str(tmp_path)) == str(first)
