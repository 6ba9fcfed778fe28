import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.ops import convolution
from mat_jax.ops.implementation import PORTABLE, for_platform
from tests.support import reference

CPU = for_platform(platform='cpu')


def _inputs(shape, size, outputs=4):
  rng = np.random.default_rng(0)
  x = rng.standard_normal(shape, np.float32)
  return x, rng.standard_normal((*size, shape[-1], outputs), np.float32)


def _energy(x, kernel, padding, implementation):
  return jnp.sum(jnp.sin(convolution.convolve(x, kernel, padding, implementation)))


# Maps of one strip, of several, and whose last strip is not full.
@pytest.mark.parametrize('shape,size,padding', [
    ((2, 8, 6, 3), (3, 3), (1, 1)), ((3, 9, 300, 2), (3, 3), (1, 1)),
    ((1, 33, 129, 2), (2, 1), (1, 0)), ((2, 5, 700, 2), (1, 1), (0, 0)),
    ((1, 3000, 2, 1), (3, 2), (0, 1))])
def test_strips_give_the_gradients_of_xla(shape, size, padding):
  x, kernel = _inputs(shape, size)
  run = jax.jit(jax.value_and_grad(_energy, (0, 1)), static_argnums=(2, 3))
  value, gradients = run(x, kernel, padding, CPU)
  expected_value, expected = run(x, kernel, padding, PORTABLE)
  np.testing.assert_allclose(value, expected_value, rtol=1e-4)
  for found, other in zip(gradients, expected, strict=True):
    assert reference.relative_error(found, other) <= 1e-5


def test_planes_of_an_image_give_the_gradients_of_xla():
  x, kernel = _inputs((2, 5, 6, 16), (1, 1), outputs=3)
  padding = (0, 0)
  run = jax.jit(jax.value_and_grad(_energy, (0, 1)), static_argnums=(2, 3))
  planes = for_platform(platform='tpu')
  text = str(jax.make_jaxpr(lambda x, k: convolution.convolve(x, k, padding, planes))(x, kernel))
  assert 'dot_general' in text and 'conv_general' not in text
  value, gradients = run(x, kernel, padding, planes)
  expected_value, expected = run(x, kernel, padding, PORTABLE)
  np.testing.assert_allclose(value, expected_value, rtol=1e-4)
  for found, other in zip(gradients, expected, strict=True):
    assert reference.relative_error(found, other) <= 1e-5


def test_kernel_gradients_in_bfloat16_are_summed_in_float32():
  x, kernel = jnp.ones((2, 40, 128, 8), jnp.bfloat16), jnp.ones((3, 3, 8, 4), jnp.bfloat16)
  _, pullback = jax.vjp(lambda kernel: convolution.convolve(x, kernel, (1, 1), CPU), kernel)
  (found,) = pullback(jnp.ones((2, 40, 128, 4), jnp.bfloat16))
  assert found.dtype == jnp.bfloat16
  # A sum of ones in bfloat16 would end at 256.
  np.testing.assert_array_equal(found[1, 1].astype(jnp.float32), 2 * 40 * 128)


def test_the_map_is_kept_only_for_the_gradient_of_the_kernel():
  x, kernel = _inputs((1, 8, 8, 3), (3, 3))

  def kept(*argument):
    def output(*given):
      values = dict(zip(argument, given, strict=True))
      return convolution.convolve(
          values.get('x', jnp.asarray(x)), values.get('kernel', jnp.asarray(kernel)), (1, 1), CPU)

    inputs = {'x': jnp.asarray(x), 'kernel': jnp.asarray(kernel)}
    _, pullback = jax.vjp(output, *(inputs[name] for name in argument))
    return {leaf.shape for leaf in jax.tree.leaves(pullback)}

  assert x.shape not in kept('x')
  assert {x.shape, kernel.shape} <= kept('x', 'kernel')


def test_forward_mode_is_refused_not_wrong():
  x, kernel = _inputs((1, 8, 8, 3), (3, 3))
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(lambda x: convolution.convolve(x, kernel, (1, 1), CPU), (x,), (x,))
