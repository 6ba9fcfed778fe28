import os

import ml_collections
from ml_collections import config_dict
import numpy as np
import pytest

from mat_jax.checkpoints import reader
from mat_jax.errors import UserError
from tests.support.tiny_state import MODEL, equal, like, open_checkpoints, save_steps, tiny_state


def test_the_checkpoint_alone_tells_its_model(trained):
  workdir, config = trained
  found = reader.restore_ema(workdir)
  assert found.model.to_dict() == config.model.to_dict()
  assert (found.step, found.images_seen) == (4, 16)
  assert set(found.variables) == {'params', 'buffers'}
  assert np.any(found.variables['buffers']['mapping']['w_avg'])


def test_reads_the_networks_alone(tmp_path):
  save_steps(tmp_path, 3)
  state = tiny_state(3)
  ema = reader.restore_ema(str(tmp_path))
  assert equal(ema.variables, {'params': state.ema_params, 'buffers': state.ema_buffers})
  found = reader.restore_networks(str(tmp_path), ('d_params', 'ema_buffers'))
  assert equal(found.networks, {'d_params': state.d_params, 'ema_buffers': state.ema_buffers})


def test_a_damaged_checkpoint_is_named(tmp_path):
  save_steps(tmp_path, 3)
  ema = tmp_path / 'checkpoints' / '3' / 'ema'
  for path in ema.rglob('*'):
    if path.is_file() and path.name != '_METADATA':
      os.truncate(path, path.stat().st_size // 2)
  with pytest.raises(UserError, match=f'{ema} cannot be read'):
    reader.restore_ema(str(tmp_path))
  with pytest.raises(UserError, match='none of the checkpoints'):
    open_checkpoints(tmp_path).restore(like())


def test_the_first_differing_field_is_named():
  reader.check_architecture(MODEL, {**MODEL, 'dtype': 'bfloat16'}, 'x')
  reader.check_architecture(MODEL, {**MODEL, 'mapping_layers': None}, 'x')
  with pytest.raises(UserError, match='--config.model.width=0.0625'):
    reader.check_architecture(MODEL, {**MODEL, 'width': 0.5}, 'x')


def test_an_open_depth_is_that_of_the_checkpoint():
  model = ml_collections.ConfigDict({**MODEL, 'dtype': 'bfloat16'})
  model.mapping_layers = config_dict.placeholder(int)
  fitted = reader.resolve_model_config(model, MODEL, 'x')
  assert fitted.to_dict() == {**MODEL, 'dtype': 'bfloat16'}
  assert model.mapping_layers is None


@pytest.mark.parametrize('field,value', [('mapping_layers', 8), ('width', 1.0)])
def test_a_given_depth_or_width_is_not_changed_silently(field, value):
  model = ml_collections.ConfigDict({**MODEL, field: value})
  with pytest.raises(UserError, match=f'model.{field} {MODEL[field]}, the config says {value}'):
    reader.resolve_model_config(model, MODEL, 'x')
