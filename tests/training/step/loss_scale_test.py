import dataclasses
import types
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from mat_jax.runtime import sharding
from mat_jax.training.step import accumulators, loss_scale, objectives, settings, train_step
from mat_jax.training.step.gradients import Context
from mat_jax.training.step.train_state import (
  LECAM_AVERAGES,
  AugmentState,
  TrainState,
  make_optimizers,
)

_KEPT_FROM_G = ('g_params', 'g_optimizer', 'ema_params', 'ema_buffers')
_KEPT_FROM_D = ('d_params', 'd_optimizer', 'lecam')


class _State(flax.struct.PyTreeNode):
  params: Any
  loss_scale: Any = None


def _equal(a, b):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def _apply(state, gradient):
  return loss_scale.apply(state, 'g', gradient, lambda g: state.replace(params=state.params - g))


def test_finite_gradients_are_unscaled_exactly():
  state = _State(jnp.ones(2), loss_scale.fresh())
  gradient = jnp.array([0.3, 1e-9], jnp.float32)
  factor = loss_scale.factor(state.loss_scale, 'g')
  updated = jax.jit(_apply)(state, gradient * factor)
  np.testing.assert_array_equal(updated.params, state.params - gradient)
  assert updated.loss_scale['g'].dynamic.fin_steps == 1
  assert _equal(updated.loss_scale['d'], state.loss_scale['d'])


@pytest.mark.parametrize('bad', [np.inf, -np.inf, np.nan])
def test_gradients_that_are_not_finite_halve_the_factor_and_change_nothing_else(bad):
  state = _State(jnp.ones(2), loss_scale.fresh())
  updated = jax.jit(_apply)(state, jnp.array([1.0, bad]))
  np.testing.assert_array_equal(updated.params, state.params)
  found = loss_scale.summary(updated.loss_scale)
  assert found == {'loss_scale/g': 32768.0, 'loss_scale/skipped_steps_g': 1,
                   'loss_scale/d': 65536.0, 'loss_scale/skipped_steps_d': 0}


def test_the_factor_doubles_after_many_finite_gradients():
  state = _State(jnp.ones(2), loss_scale.fresh())
  old = state.loss_scale['g']
  waited = old.replace(dynamic=old.dynamic.replace(fin_steps=jnp.int32(2000)))
  state = state.replace(loss_scale={**state.loss_scale, 'g': waited})
  updated = _apply(state, jnp.ones(2))
  assert loss_scale.factor(updated.loss_scale, 'g') == 2 * 65536


def test_without_loss_scaling_nothing_is_checked():
  state = _State(jnp.ones(2))
  assert loss_scale.factor(None, 'g') is None and loss_scale.summary(None) == {}
  assert np.isinf(_apply(state, jnp.array([1.0, jnp.inf])).params[1])
  assert loss_scale.unless_skipped(state, state, 'updated') == 'updated'


@pytest.fixture
def options():
  config = tiny.get_config()
  config.train.update(lecam_weight=0.1, r1_interval=2)
  return settings.training_from_config(config)


def _train_state(options):
  g_optimizer, d_optimizer = make_optimizers(options)
  params, buffers = {'kernel': jnp.ones(3)}, {'w_avg': jnp.zeros(3)}
  return TrainState(
      step=jnp.int32(1), images_seen=jnp.int32(8), warmup_images=jnp.int32(0),
      key=jax.random.key_data(jax.random.key(0)), g_params=params, g_buffers=buffers,
      d_params=params, ema_params={'kernel': jnp.zeros(3)}, ema_buffers=buffers,
      g_optimizer=g_optimizer.init(params), d_optimizer=d_optimizer.init(params),
      augment=AugmentState(jnp.float32(0), jnp.float32(0), jnp.float32(0)),
      lecam={name: jnp.float32(0) for name in LECAM_AVERAGES}, totals=accumulators.empty(),
      loss_scale=loss_scale.fresh(), gradient_norms=accumulators.no_norms())


def _step(monkeypatch, options, infinite):
  """A step in which the gradients of one network are infinite, and what it began with."""
  monkeypatch.setattr(objectives, 'update_style_average', lambda networks, params, buffers, z: {
      'w_avg': buffers['w_avg'] + 1})
  phases = iter('gd')

  def fake(loss, params, shared, examples, scale):
    name = next(phases)
    gradient = jnp.full(3, jnp.inf if name == infinite else 0.5) * scale
    metrics = {'loss/g': jnp.float32(1)} if name == 'g' else {
        **{f'logits/{key}': jnp.float32(1) for key in LECAM_AVERAGES},
        'signs/real': jnp.float32(1), 'loss/d': jnp.float32(1)}
    return {'kernel': gradient}, metrics

  monkeypatch.setattr(train_step, 'regularize_discriminator', lambda state, *_: (state, {}))
  context = types.SimpleNamespace(
      networks=None, settings=options, gradients=fake,
      sample=lambda key, state: types.SimpleNamespace(z=None))
  state = _train_state(options)
  return state, train_step.make_train_step(context)(state, None, {})[0]


@pytest.mark.parametrize('infinite', ['g', 'd', 'neither'])
def test_a_step_skips_the_network_whose_gradients_are_infinite(monkeypatch, options, infinite):
  before, after = _step(monkeypatch, options, infinite)
  for network, fields in (('g', _KEPT_FROM_G), ('d', _KEPT_FROM_D)):
    for name in fields:
      assert _equal(getattr(before, name), getattr(after, name)) == (network == infinite), name
    assert after.loss_scale[network].skipped == (network == infinite)
    assert after.loss_scale[network].dynamic.scale == (2**15 if network == infinite else 2**16)
  # The average style has moved in the phases that were not skipped.
  np.testing.assert_array_equal(
      after.g_buffers['w_avg'], np.full(3, 2.0 if infinite == 'neither' else 1.0))
  assert (after.step, after.images_seen) == (2, 16)
  assert after.totals['loss/g'][1] == after.totals['loss/d'][1] == 1
  # Of three gradients of 0.5, whatever the loss was multiplied by.
  means = accumulators.means(after.gradient_norms)
  for network in 'gd':
    found = means.get(f'gradient_norm/{network}')
    assert found is None if network == infinite else np.isclose(found, 0.75 ** 0.5)


@pytest.mark.parametrize('microbatch,on_mesh', [(8, False), (4, False), (4, True)])
def test_the_loss_is_scaled_on_every_path(monkeypatch, options, microbatch, on_mesh):
  # As on a TPU, where even a single device takes shard_map.
  monkeypatch.setattr(Context, '_is_tpu', property(lambda self: on_mesh))
  context = Context(None, dataclasses.replace(options, microbatch=microbatch),
                    sharding.make_mesh(jax.devices()[:1]) if on_mesh else None)
  examples = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)

  def loss(params, shared, examples):
    value = jnp.mean(jnp.square(examples @ params * shared['by']))
    return value, {'loss/g': value}

  run = lambda scale: context.gradients(  # noqa: E731
      loss, jnp.ones(3), shared={'by': jnp.float32(2)}, examples=examples, scale=scale)
  (exact, metrics), (scaled, same) = run(None), run(jnp.float32(1024))
  assert np.any(exact)
  np.testing.assert_allclose(scaled, 1024 * exact, rtol=1e-6)
  np.testing.assert_allclose(same['loss/g'], metrics['loss/g'], rtol=1e-6)
