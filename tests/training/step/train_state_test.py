import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mat_jax.nn.discriminator import Branch
from mat_jax.nn.mapping import Mapping
from mat_jax.nn.modulation import StyleConv
from mat_jax.training.step import train_state
from mat_jax.training.step.settings import Optimizer


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


@functools.cache
def _fresh():
  """Leaves by path of three modules whose initial values differ in kind."""
  x, style, rng = jnp.zeros((1, 16, 16, 8)), jnp.zeros((1, 16)), jax.random.key(0)
  modules = {'conv': (StyleConv(8, 16), x, style), 'mapping': (Mapping(16, 4, 2), style),
             'branch': (Branch(64, 0.0625), jnp.zeros((1, 64, 64, 3)), jnp.ones((1, 64, 64, 1)))}

  def create(key):
    return {name: train_state.fresh_variables(key, *arguments)
            for name, arguments in modules.items()}

  expected = {name: jax.eval_shape(module.init, rng, *inputs)
              for name, (module, *inputs) in modules.items()}
  found = jax.device_get(jax.jit(create)(rng))
  assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
  return {jax.tree_util.keystr(path): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


def _deviation(path):
  if path.endswith(("['kernel']", "['noise_const']")):
    return 100.0 if path.startswith("['mapping']") else 1.0  # its learning rate is a hundredth
  return 0.0


def test_fresh_variables_have_the_distribution_of_their_layers():
  for path, leaf in _fresh().items():
    deviation = _deviation(path)
    if deviation:
      np.testing.assert_allclose(leaf.mean(), 0, atol=6 * deviation / np.sqrt(leaf.size))
      np.testing.assert_allclose(leaf.std(), deviation, rtol=5 / np.sqrt(leaf.size))
    else:
      assert np.all(leaf == (1.0 if "['affine']['bias']" in path else 0.0)), path


def test_no_draw_is_used_twice():
  draws = [np.ravel(leaf / _deviation(path)) for path, leaf in _fresh().items()
           if _deviation(path) and path.startswith("['branch']")]
  draws = np.concatenate(draws)
  # float32 draws have 2^23 values: a few coincide.
  assert len(np.unique(draws)) > 0.95 * len(draws) > 1e4
