import types

import jax.numpy as jnp
import pytest

from configs import base
from mat_jax.errors import UserError
from mat_jax.nn import model_config
from mat_jax.training.step import settings


def _device(platform, **fields):
  return types.SimpleNamespace(platform=platform, **fields)


@pytest.mark.parametrize('device,expected', [
    (_device('tpu'), 'bfloat16'), (_device('cpu'), 'float32'),
    (_device('gpu', compute_capability='7.5'), 'float16'),
    (_device('gpu', compute_capability='7.0'), 'float16'),
    (_device('gpu', compute_capability='8.0'), 'bfloat16'),
    (_device('gpu', compute_capability='12.1'), 'bfloat16'),
    (_device('gpu', compute_capability='gfx90a'), 'float32'), (_device('gpu'), 'float32')])
def test_auto_is_the_fastest_dtype_of_the_device(device, expected):
  assert model_config.compute_dtype('auto', device) == jnp.dtype(expected)
  assert model_config.compute_dtype('float32', device) == jnp.float32


def test_dtype():
  assert model_config.compute_dtype('bfloat16') == jnp.bfloat16
  assert model_config.compute_dtype('float16') == jnp.float16
  assert model_config.compute_dtype('auto') in (jnp.float32, jnp.bfloat16, jnp.float16)
  with pytest.raises(UserError, match="model.dtype is 'float64'"):
    model_config.compute_dtype('float64')


def test_implementations_belong_to_the_run():
  model = base.get_config().model
  here = model_config.generator_from_config(model)
  assert model_config.generator_from_config(model, 'tpu').implementation.fir == 'depthwise'
  with pytest.raises(UserError, match="implementations is 'abacus'"):
    model_config.generator_from_config(model, 'abacus')
  model.formulations = 'tpu'  # as checkpoints of an earlier version have it
  assert model_config.generator_from_config(model) == here


def test_a_model_too_small_for_the_discriminator_on_features():
  config = base.get_config()
  assert model_config.projected_from_config(config) is None
  config.train.projected_weight, config.model.resolution = 0.5, 64
  assert model_config.projected_from_config(config) is not None
  config.model.resolution = 32
  with pytest.raises(UserError, match='from 64 px, but model.resolution is 32'):
    model_config.projected_from_config(config)


@pytest.mark.parametrize('batch_size,microbatch,expected', [
    (1, 'auto', 1), (3, 'auto', 3), (4, 'auto', 4), (32, 'auto', 32), (32, 8, 8), (8, 8, 8),
    (6, 'auto', 'train.batch_size is 6'), (8, 'half', "train.microbatch is 'half'"), (32, 12, 'train.microbatch is 12, which does not divide'),
    (32, 2, 'train.microbatch is 2; choose a multiple of 4'), (8, 0, 'train.microbatch is 0')])
def test_batches_that_groups_of_four_divide(batch_size, microbatch, expected):
  config = base.get_config()
  config.train.batch_size, config.train.microbatch = batch_size, microbatch
  if isinstance(expected, int):
    assert settings.training_from_config(config).microbatch == expected
  else:
    with pytest.raises(UserError, match=expected):
      settings.training_from_config(config)


def test_r1_gamma_follows_the_heuristic_unless_it_is_given():
  config = base.get_config()
  assert settings.training_from_config(config).r1_gamma == 10.0
  config.train.r1_gamma, config.train.batch_size = -1.0, 16
  assert settings.training_from_config(config).r1_gamma == pytest.approx(0.8192)


def test_freeze_d_counts_blocks_from_the_image():
  config = base.get_config()
  assert settings.training_from_config(config).frozen_d_modules == ()
  config.train.freeze_d_blocks = 2
  assert settings.training_from_config(config).frozen_d_modules == (
      'from_rgb', 'block_256', 'block_128')


def test_an_open_mapping_depth_is_the_released_one():
  config = base.get_config()
  assert config.model.mapping_layers is None
  assert model_config.generator_from_config(config.model).mapping_layers == 8


def test_resolution_is_named():
  model = base.get_config().model
  model.resolution = 100
  with pytest.raises(UserError, match='resolution 100'):
    model_config.generator_from_config(model)
