import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.ops import lean


def _inputs(images=2):
  rng = np.random.default_rng(0)
  shapes = {'y': (images, 6, 5, 4), 'factor': (images, 4), 'strength': (), 'noise': (1, 6, 5, 1),
            'bias': (4,)}
  found = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
           for name, shape in shapes.items()}
  return found | {'factor': jnp.abs(found['factor']) + 0.1}


def _plain(y, factor, strength, noise, bias):
  z = y * factor[:, None, None] + bias
  z = z if noise is None else z + strength * noise
  return jnp.sqrt(2.0) * jax.nn.leaky_relu(z, 0.2)


def _orders(function, arguments):
  """Value, gradients, and gradients of a penalty on the gradients."""
  where = tuple(range(len(arguments)))

  def energy(*arguments):
    return jnp.sum(jnp.sin(function(*arguments)))

  def penalty(*arguments):
    gradients = jax.grad(energy, where)(*arguments)
    return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(gradients))

  return jax.tree.leaves((function(*arguments), jax.grad(energy, where)(*arguments),
                          jax.grad(penalty, where)(*arguments)))


def _compare(function, plain, arguments):
  for found, expected in zip(_orders(function, arguments), _orders(plain, arguments), strict=True):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * float(jnp.max(jnp.abs(expected))))


@pytest.mark.parametrize('noise', ['stored', 'per image', None])
def test_finish_is_the_plain_function_up_to_second_derivatives(noise):
  inputs = _inputs()
  if noise == 'per image':
    inputs['noise'] = jnp.concatenate([inputs['noise'], 2.0 - inputs['noise']])
  elif noise is None:
    inputs['noise'] = None
  _compare(lean.finish, _plain, tuple(inputs.values()))


def test_scale_is_the_plain_function_up_to_second_derivatives():
  inputs = _inputs()
  _compare(lean.scale, lambda x, style: x * style[:, None, None],
           (inputs['y'], inputs['factor'] - 1.0))


def test_mix_is_the_plain_function_up_to_second_derivatives():
  kernels = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4, 3)), jnp.float32)
  _compare(lean.mix, lambda x, kernels: jnp.einsum('nhwi,nio->nhwo', x, kernels),
           (_inputs()['y'], kernels))


def test_sums_are_in_float32_for_bfloat16():
  inputs = _inputs() | {'y': jnp.ones((2, 64, 64, 4), jnp.bfloat16),
                        'noise': jnp.zeros((1, 64, 64, 1)), 'factor': jnp.ones((2, 4)),
                        'bias': jnp.zeros(4)}
  _, pull = jax.vjp(lean.finish, *inputs.values())
  by_y, by_factor, _, _, by_bias = pull(jnp.ones((2, 64, 64, 4), jnp.bfloat16))
  assert by_y.dtype == jnp.bfloat16 and by_factor.dtype == by_bias.dtype == jnp.float32
  # In bfloat16 a sum of ones ends at 256. The gradient itself is rounded, by at most 1/256.
  np.testing.assert_allclose(by_bias, 2 * 64 * 64 * np.sqrt(2.0), rtol=1 / 256)


def test_from_few_is_the_plain_function_up_to_second_derivatives():
  kernel = jnp.asarray(np.random.default_rng(1).standard_normal((4, 7)), jnp.float32)
  _compare(lean.from_few, lambda x, kernel: jnp.einsum('nhwi,io->nhwo', x, kernel),
           (_inputs()['y'], kernel))
