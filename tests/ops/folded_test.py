import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.ops import folded, resample
from tests.support import reference


def test_folding_is_undone_and_keeps_pairs_of_columns_together():
  x = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
  pairs = folded.fold(x)
  np.testing.assert_array_equal(pairs[1, 2, 1], jnp.concatenate([x[1, 2, 2], x[1, 2, 3]]))
  np.testing.assert_array_equal(folded.unfold(pairs), x)


@pytest.mark.parametrize('is_image', [False, True])
@pytest.mark.parametrize('size,down', [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_values_gradients_and_second_derivatives_are_those_of_the_convolution(size, down, is_image):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 8, 12, 3), np.float32)
  kernel = rng.standard_normal((size, size, 3, 5), np.float32)

  def fold(x, kernel):
    y = folded.resample_conv(x if is_image else folded.fold(x), kernel, down)
    return y if down == 2 else folded.unfold(y)

  def all_of(convolve):
    def energy(x, kernel):
      y = convolve(x, kernel)
      return jnp.sum(jnp.sin(y)), y

    def penalty(x, kernel):
      return jnp.sum(jnp.square(jax.grad(energy, has_aux=True)(x, kernel)[0]))

    gradients, y = jax.grad(energy, (0, 1), has_aux=True)(x, kernel)
    return y, *gradients, *jax.grad(penalty, (0, 1))(x, kernel)

  expected = all_of(lambda x, kernel: resample.resample_conv(x, kernel, down=down))
  for found, other in zip(jax.jit(lambda: all_of(fold))(), expected, strict=True):
    assert found.shape == other.shape
    assert reference.relative_error(found, other) <= 1e-5
