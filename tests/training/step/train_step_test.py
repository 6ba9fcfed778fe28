import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from mat_jax.training.step import gradients, settings, train_step
from mat_jax.training.step.train_state import AugmentState


@pytest.fixture(scope='module')
def training():
  config = tiny.get_config()
  config.augment.pipeline = 'bgc'
  config.augment.kimg = 0.08
  return settings.training_from_config(config)


@pytest.mark.parametrize('rampup,seen,half_life', [(None, 0, 10_000), (0.05, 20_000, 1000)])
def test_ema_decay_follows_half_life_and_ramp_up(training, rampup, seen, half_life):
  options = dataclasses.replace(training, ema_kimg=10.0, ema_rampup=rampup)
  decay = train_step.ema_decay(jnp.int32(seen), options)
  np.testing.assert_allclose(decay, 0.5 ** (8 / half_life), rtol=1e-6)


def _adapt(training, signs, probability=0.3):
  state = AugmentState(jnp.float32(probability), jnp.float32(0), jnp.float32(0))
  found = []
  for step, sign in enumerate(signs):
    state = train_step.adapt_augmentation(state, jnp.float32(sign), jnp.int32(step), training)
    found.append(round(float(state.probability), 4))
  return found


def test_the_probability_follows_the_sign_of_real_logits_every_fourth_step(training):
  # A move is 8 images * 4 steps / 80 images = 0.4.
  assert _adapt(training, [1.0, 1.0, 0.5, 0.5] * 2) == [0.3] * 3 + [0.7] * 4 + [0.8]
  assert _adapt(training, [0.5] * 8) == [0.3] * 3 + [0.0] * 5
  assert _adapt(training, [np.nan] * 4) == [0.3] * 4
  fixed = dataclasses.replace(
      training, augmentation=dataclasses.replace(training.augmentation, kimg=np.inf))
  assert _adapt(fixed, [1.0] * 8) == [0.3] * 8


def test_microbatches_give_the_gradients_of_the_batch():
  rng = np.random.default_rng(0)
  params = {'a': rng.normal(size=(5, 3)), 'b': rng.normal(size=3)}
  examples = (rng.normal(size=(16, 5)), {'target': rng.normal(size=(16, 3))})

  def loss(params, shared, examples):
    x, (target,) = examples[0], examples[1].values()
    groups = jnp.std(x.reshape(-1, 4, 5), axis=1).repeat(4, axis=0)
    error = jnp.mean((jnp.tanh((x + groups) @ params['a']) * shared + params['b'] - target) ** 2)
    return error, {'loss/g': error}

  whole = gradients.mean_gradients(loss, params, 2.0, examples, 1)
  parts = jax.jit(lambda p, e: gradients.mean_gradients(loss, p, 2.0, e, 4))(params, examples)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, parts)


@pytest.mark.parametrize('platform,asked_for,found', [
    ('tpu', None, 'high'), ('tpu', 'float32', 'float32'), ('gpu', None, None)])
def test_products_of_r1_are_float32_on_a_tpu(training, platform, asked_for, found):
  mesh = types.SimpleNamespace(
      devices=np.array([types.SimpleNamespace(platform=platform)], dtype=object))
  before = jax.config.jax_default_matmul_precision
  jax.config.update('jax_default_matmul_precision', asked_for)
  try:
    with gradients.Context(None, training, mesh).float32_matmuls():
      assert jax.config.jax_default_matmul_precision == found
    assert jax.config.jax_default_matmul_precision == asked_for
  finally:
    jax.config.update('jax_default_matmul_precision', before)
