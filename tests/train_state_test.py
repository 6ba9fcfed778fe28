import jax.numpy as jnp
import numpy as np
import optax

from mat_jax import train_state
from mat_jax.settings import Optimizer


def _run(optimizer, gradients, steps):
  params = {'synthesis': {'tran_0': jnp.zeros(3), 'enc': jnp.zeros(3)}}
  state = optimizer.init(params)
  for step in range(steps):
    grads = {'synthesis': {'tran_0': gradients[step], 'enc': gradients[step]}}
    updates, state = optimizer.update(grads, state)
    params = optax.apply_updates(params, updates)
  return params['synthesis']


def _gradients():
  return np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def test_lazy_regularisation_rescales_adam():
  ours = _run(train_state.make_optimizer(Optimizer(learning_rate=1e-2), 16), _gradients(), 4)
  ratio = 16 / 17
  expected = _run(optax.adam(1e-2 * ratio, 0.0, 0.99**ratio, 1e-8), _gradients(), 4)
  np.testing.assert_allclose(ours['enc'], expected['enc'], rtol=1e-5)


def test_first_moment_is_kept_only_when_it_is_used():
  ours = _run(train_state.make_optimizer(Optimizer(beta1=0.5), 4), _gradients(), 4)
  expected = _run(optax.adam(1e-3 * 0.8, 0.5**0.8, 0.99**0.8, 1e-8), _gradients(), 4)
  np.testing.assert_allclose(ours['enc'], expected['enc'], rtol=1e-5)


def test_the_transformer_can_have_its_own_rate():
  settings = Optimizer(learning_rate=1e-3, transformer_learning_rate=1e-4)
  params = _run(train_state.make_optimizer(settings, 4), _gradients(), 1)
  np.testing.assert_allclose(params['tran_0'] * 10, params['enc'], rtol=1e-5)


def test_frozen_modules_stay_as_they_are():
  params = _run(train_state.make_optimizer(Optimizer(beta1=0.5), 16, ('enc',)), _gradients(), 4)
  assert not np.any(params['enc']) and np.all(params['tran_0'] != 0)


def test_non_finite_gradients_do_not_reach_the_parameters():
  gradients = np.array([[np.nan, np.inf, -np.inf]], np.float32)
  params = _run(train_state.make_optimizer(Optimizer(), 4), gradients, 1)
  np.testing.assert_allclose(params['enc'], [0.0, -8e-4, 8e-4], rtol=1e-4)
