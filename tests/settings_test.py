import importlib

import jax.numpy as jnp
import pytest

from configs import base
from mat_jax import settings
from mat_jax.errors import UserError


@pytest.mark.parametrize('name', ['demo', 'wikiart', 'celebahq256', 'celebahq512', 'ffhq512',
                                  'places512'])
def test_every_config_makes_networks_and_settings(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  assert set(config.to_dict()) == set(base.get_config().to_dict()), 'fields come from base'
  generator = settings.generator_from_config(config.model)
  batch_size = config.train.batch_size
  discriminator = settings.discriminator_from_config(config.model, batch_size)
  assert generator.resolution == discriminator.resolution == config.model.resolution
  assert discriminator.minibatch_std_shards * 4 == batch_size
  assert settings.training_from_config(config).optimizer.beta2 == config.optimizer.beta2
  assert str(generator.resolution) in name or name in ('demo', 'wikiart')


def test_dtype():
  assert settings.compute_dtype('bfloat16') == jnp.bfloat16
  assert settings.compute_dtype('auto') in (jnp.float32, jnp.bfloat16)
  with pytest.raises(UserError, match="model.dtype is 'float16'"):
    settings.compute_dtype('float16')


def test_formulations():
  model = base.get_config().model
  model.formulations = 'tpu'
  assert settings.generator_from_config(model).compute.fir == 'depthwise'
  model.formulations = 'abacus'
  with pytest.raises(UserError, match="model.formulations is 'abacus'"):
    settings.generator_from_config(model)


@pytest.mark.parametrize('batch_size,accepted', [(1, True), (3, True), (4, True), (6, False),
                                                 (32, True)])
def test_batches_that_groups_of_four_divide(batch_size, accepted):
  model = base.get_config().model
  if accepted:
    settings.discriminator_from_config(model, batch_size)
  else:
    with pytest.raises(UserError, match='train.batch_size is 6'):
      settings.discriminator_from_config(model, batch_size)


def test_resolution_is_named():
  model = base.get_config().model
  model.resolution = 100
  with pytest.raises(UserError, match='resolution 100'):
    settings.generator_from_config(model)
