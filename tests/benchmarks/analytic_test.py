import jax
from jax import lax
import jax.numpy as jnp
import pytest

from benchmarks import abstract_step, analytic

_NUMBERS = ('NHWC', 'HWIO', 'NHWC')


def _conv(x, kernel, **options):
  options = {'window_strides': (1, 1), 'padding': 'VALID', **options}
  return lax.conv_general_dilated(x, kernel, dimension_numbers=_NUMBERS, **options)


def _shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize('options, expected', [
    ({}, 2 * 3 * 6 * 6 * 9 * 4 * 5),
    ({'window_strides': (2, 2)}, 2 * 3 * 3 * 3 * 9 * 4 * 5),
    # With a padding of one, 22 of the 24 pairs of an output and a tap meet an input.
    ({'padding': 'SAME'}, 2 * 3 * 22 * 22 * 4 * 5),
    # Every input meets every tap once along an axis where nothing is cut off.
    ({'padding': ((2, 2), (2, 2)), 'lhs_dilation': (2, 2)}, 2 * 3 * 24 * 24 * 4 * 5),
])
def test_convolutions(options, expected):
  assert analytic.flops(lambda x, k: _conv(x, k, **options), _shape(3, 8, 8, 4),
                        _shape(3, 3, 4, 5)) == expected


def test_a_depthwise_convolution_reads_one_channel():
  found = analytic.flops(lambda x, k: _conv(x, k, feature_group_count=4), _shape(3, 8, 8, 4),
                         _shape(3, 3, 1, 4))
  assert found == 2 * 3 * 36 * 9 * 4


def test_a_gradient_by_kernel_and_input_is_two_convolutions_more():
  def loss(x, kernel):
    return jnp.sum(_conv(x, kernel, padding='SAME') ** 2)

  shapes = _shape(2, 8, 8, 4), _shape(3, 3, 4, 5)
  forward = analytic.flops(loss, *shapes)
  assert analytic.flops(jax.grad(loss, 1), *shapes) == 2 * forward
  assert analytic.flops(jax.grad(loss, (0, 1)), *shapes) == 3 * forward


def test_products_in_calls_conditions_and_loops():
  def product(x):
    return jnp.einsum('bij,bjk->bik', x, x)

  x, one = _shape(2, 3, 3), 2 * 2 * 3 * 3 * 3
  assert analytic.flops(jax.jit(product), x) == one
  assert analytic.flops(jax.checkpoint(product), x) == one
  assert analytic.flops(
      lambda x: lax.scan(lambda c, _: (product(c), None), x, length=5)[0], x) == 5 * one
  assert analytic.flops(
      lambda x: lax.cond(x[0, 0, 0] > 0, product, lambda x: x, x), x) == one
  with pytest.raises(NotImplementedError, match='while'):
    analytic.flops(lambda x: lax.while_loop(lambda c: c[0, 0, 0] > 0, product, x), x)


def test_unused_products_do_not_count():
  assert analytic.flops(lambda x: (x @ x, x + 1)[1], _shape(3, 3)) == 0


def test_published_networks_at_256():
  """Figures of issue "fast", counted on the original: 280 and 118 GFLOP, filters included."""
  made = abstract_step.make(abstract_step.Case(256, 1, 'float32', 'gpu'))
  generator, arguments = made.generator()
  assert analytic.flops(generator, *arguments) == pytest.approx(280e9, rel=0.03)
  discriminator, arguments = made.discriminator()
  assert analytic.flops(discriminator, *arguments) == pytest.approx(118e9, rel=0.03)
