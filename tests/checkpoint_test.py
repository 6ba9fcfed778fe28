import os
import shutil

import numpy as np
import pytest

from mat_jax import checkpoint
from mat_jax.errors import UserError


def test_finds_a_step_from_workdir_folder_and_step(trained):
  workdir, _ = trained
  expected = os.path.join(workdir, 'checkpoints', '4')
  for path in (workdir, os.path.join(workdir, 'checkpoints'), expected):
    assert checkpoint.find_step(path) == expected


def test_the_checkpoint_alone_tells_its_model(trained):
  workdir, config = trained
  found = checkpoint.restore_ema(workdir)
  assert found.model.to_dict() == config.model.to_dict()
  assert (found.step, found.images_seen) == (4, 16)
  assert set(found.variables) == {'params', 'buffers'}
  assert np.any(found.variables['buffers']['mapping']['w_avg'])


@pytest.mark.parametrize('damage', ['meta', 'ema'])
def test_a_damaged_checkpoint_is_named(trained, tmp_path, damage):
  workdir, _ = trained
  copy = tmp_path / 'copy'
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / 'checkpoints' / '4' / damage)
  (copy / 'checkpoints' / '4' / damage).mkdir()
  with pytest.raises(UserError, match=str(copy)):
    checkpoint.restore_ema(str(copy))


def test_an_empty_folder_is_no_checkpoint(tmp_path):
  with pytest.raises(UserError, match='no checkpoint in'):
    checkpoint.restore_ema(str(tmp_path))


def test_the_first_differing_field_is_named():
  found = {'resolution': 256, 'mapping_layers': 8, 'width': 1.0, 'dtype': 'auto'}
  checkpoint.check_architecture(found, {**found, 'dtype': 'bfloat16'}, 'x')
  with pytest.raises(UserError, match='--config.model.width=1.0'):
    checkpoint.check_architecture(found, {**found, 'width': 0.5}, 'x')
