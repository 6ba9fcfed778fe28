import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.features import lean_derivatives, vgg


def _gradients(function, x):
  return function(x), jax.grad(lambda x: jnp.sum(jnp.sin(function(x) + 0.5)))(x)


@pytest.mark.parametrize('shape', [(2, 6, 8, 3), (1, 5, 7, 2)])
def test_pooling_is_that_of_xla(shape):
  # Small integers, so that windows have several maxima, of which the first has the gradient.
  x = jnp.asarray(np.random.default_rng(0).integers(0, 3, shape), jnp.float32)
  for found, expected in zip(_gradients(lean_derivatives.max_pool, x),
                             _gradients(vgg._max_pool, x), strict=True):
    np.testing.assert_array_equal(found, expected)


def test_relu_is_that_of_jax():
  x = jnp.array([-1.0, -0.0, 0.0, 2.0])
  for found, expected in zip(_gradients(lean_derivatives.relu, x), _gradients(jax.nn.relu, x),
                             strict=True):
    np.testing.assert_array_equal(found, expected)


def test_the_derivative_of_relu_keeps_the_result_alone():
  _, pull = jax.vjp(lean_derivatives.relu, jnp.array([-3.0, 2.0]))
  (kept,) = jax.tree.leaves(pull)
  np.testing.assert_array_equal(kept, [0.0, 2.0])
