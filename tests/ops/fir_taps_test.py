import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.ops import fir_taps, resample
from tests.support import reference

# Each function, and the same one by the general filter.
_FUNCTIONS = {
    'blur': (lambda x: fir_taps.blur(x, (2, 2), 0.5),
             lambda x: 0.5 * resample.upfirdn(x, resample.fir_filter(), padding=(2, 2))),
    'uneven': (lambda x: fir_taps.blur(x, (2, 1)),
               lambda x: resample.upfirdn(x, resample.fir_filter(), padding=(2, 1))),
    'downsample': (lambda x: fir_taps.downsample(x, 3.0),
                   lambda x: 3.0 * resample.upfirdn(
                       x, resample.fir_filter(), down=2, padding=(1, 1))),
    'upsample': (fir_taps.upsample,
                 lambda x: resample.upfirdn(x, resample.fir_filter(), 2, 1, (2, 1), 4.0)),
}


def _orders(function, x):
  """Value, gradient, and the gradient of a penalty on the gradient, as in R1."""
  def energy(x):
    return jnp.sum(jnp.sin(function(x)))

  def penalty(x):
    return jnp.sum(jnp.square(jax.grad(energy)(x)))

  return function(x), jax.grad(energy)(x), jax.grad(penalty)(x)


@pytest.mark.parametrize('name', _FUNCTIONS)
def test_filters_are_the_general_one_up_to_second_derivatives(name):
  x = np.random.default_rng(0).standard_normal((2, 8, 12, 3), np.float32)
  ours, general = _FUNCTIONS[name]
  for found, expected in zip(jax.jit(lambda x: _orders(ours, x))(x),
                             jax.jit(lambda x: _orders(general, x))(x), strict=True):
    assert found.shape == expected.shape
    assert reference.relative_error(found, expected) <= 1e-5


def test_sums_of_narrow_types_are_rounded_once():
  x = np.random.default_rng(0).standard_normal((1, 8, 8, 2), np.float32)
  narrow = jnp.asarray(x, jnp.bfloat16)
  found = fir_taps.blur(narrow, (2, 1))
  exact = fir_taps.blur(narrow.astype(jnp.float32), (2, 1))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_each_derivative_is_one_filter():
  x = jnp.zeros((1, 8, 8, 2))
  program = str(jax.make_jaxpr(
      jax.grad(lambda x: jnp.sum(jnp.sin(fir_taps.blur(x, (2, 1))))))(x))
  # Forward and backward pass pad a map once each; JAX's own derivative would pad 16.
  assert program.count(' pad[') == 2
