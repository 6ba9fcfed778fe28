import jax
import jax.numpy as jnp
import numpy as np

from mat_jax.ops import float16
from mat_jax.ops.float16 import LIMIT

_VALUES = np.array([-np.inf, -1e6, -LIMIT - 1, -3.0, 0.0, 3.0, LIMIT + 1, 1e6, np.inf], np.float32)


def test_only_float16_is_upcast():
  for dtype, expected in (('float16', 'float32'), ('bfloat16', 'bfloat16'), ('float32', 'float32')):
    assert float16.upcast(jnp.ones(2, dtype)).dtype == expected


def test_values_beyond_the_limits_are_clamped_and_have_no_derivative():
  found, pullback = jax.vjp(float16.clamp, _VALUES)
  assert found.dtype == jnp.float16
  np.testing.assert_array_equal(found, np.clip(_VALUES, -LIMIT, LIMIT))
  (gradient,) = pullback(jnp.full(_VALUES.shape, 2.0, jnp.float16))
  assert gradient.dtype == jnp.float32
  np.testing.assert_array_equal(gradient, np.where(np.abs(_VALUES) < LIMIT, 2.0, 0.0))


def test_what_is_no_number_stays_so():
  assert jnp.isnan(float16.clamp(jnp.float32(np.nan)))
