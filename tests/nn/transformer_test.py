import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.nn import transformer
from mat_jax.nn.blocks import resize_linear
from mat_jax.ops.implementation import PORTABLE, for_platform
from tests.support import reference

IMPLEMENTATION = for_platform()


def _mask():
  return (reference.layer_input('mask', (2, 1, 16, 16)) > 0).astype(np.float32)


def _expected(key):
  return reference.load('layers.npz')[key]


@pytest.mark.parametrize('case,size,down', [('same', 3, 1), ('down', 3, 2), ('k5', 5, 1)])
def test_partial_convolution_matches_the_reference(case, size, down):
  module = transformer.PartialConv2d(7, size, down=down, implementation=IMPLEMENTATION)
  x = reference.layer_input('x', (2, 5, 16, 16))
  variables = {'params': {'conv': reference.filled(
      transformer.Conv2d(7, size, implementation=IMPLEMENTATION), f'partial_{case}.conv', x)['params']}}
  y, mask = module.apply(variables, x, _mask())
  assert reference.relative_error(y, reference.nhwc(_expected(f'partial/{case}/out'))) <= 1e-5
  np.testing.assert_array_equal(mask, reference.nhwc(_expected(f'partial/{case}/mask')))


def _tokens(key, height, width):
  return reference.layer_input(key, (2, height * width, 12)).reshape(2, height, width, 12)


@pytest.mark.parametrize('case,shift,masked', [
    ('plain', 0, True), ('shift', 4, True), ('shift_nomask', 4, False)])
def test_block_matches_the_reference(case, shift, masked):
  module = transformer.TransformerBlock(3, 8, shift, implementation=IMPLEMENTATION)
  tokens = _tokens('tok', 16, 16)
  variables = reference.filled(module, f'swin_{case}', tokens)
  y, mask = module.apply(variables, tokens, _mask() if masked else None)
  y = y.reshape(2, 256, 12)
  assert reference.relative_error(y, _expected(f'swin/{case}/out')) <= 1e-5
  if masked:
    np.testing.assert_array_equal(mask.reshape(2, 256, 1), _expected(f'swin/{case}/mask'))
  else:
    assert mask is None


def test_block_on_another_size_matches_the_reference():
  module = transformer.TransformerBlock(3, 8, 4, implementation=IMPLEMENTATION)
  tokens = _tokens('tok32', 32, 24)
  variables = reference.filled(module, 'swin_shift', tokens)
  y, _ = module.apply(variables, tokens)
  assert reference.relative_error(
      y.reshape(2, 768, 12), _expected('swin/other_size/out')) <= 1e-5


def test_windows_partition_and_return():
  x = np.arange(2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
  windows = transformer.window_partition(x, 4)
  assert windows.shape == (2 * 6, 16, 3)
  np.testing.assert_array_equal(windows[1].reshape(4, 4, 3), x[0, :4, 4:8])
  np.testing.assert_array_equal(transformer.window_reverse(windows, 4, 8, 12), x)
  with pytest.raises(ValueError, match='8 x 12'):
    transformer.TransformerBlock(3, 5).init(jax.random.key(0), x)


def test_masked_keys_do_not_reach_the_output_of_a_window_with_valid_tokens():
  module = transformer.TransformerBlock(3, 8)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 8, 8, 12), np.float32)
  mask = np.ones((1, 8, 8, 1), np.float32)
  mask[:, 3, 3] = 0.0
  variables = module.init(jax.random.key(0), x, mask)
  other = x.copy()
  other[:, 3, 3] += 5.0
  a, updated = module.apply(variables, x, mask)
  b, _ = module.apply(variables, other, mask)
  changed = np.abs(a - b).max(-1)[0]
  assert changed[3, 3] > 0 and np.sum(changed > 1e-6) == 1
  assert np.all(updated == 1.0)


def test_normalisation_has_length_one_and_no_gradient_at_zero():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6), np.float32)).at[1].set(0)
  y, pullback = jax.vjp(transformer.l2_normalize, x)
  (gradient,) = pullback(jnp.ones_like(y))
  np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), [1, 0, 1, 1], rtol=1e-6)
  assert not np.any(gradient[1]) and np.all(np.any(np.delete(gradient, 1, 0), axis=-1))
  narrow, narrow_pullback = jax.vjp(transformer.l2_normalize, x.astype(jnp.float16))
  np.testing.assert_allclose(narrow, y, atol=1e-3)
  np.testing.assert_allclose(narrow_pullback(jnp.ones_like(narrow))[0], gradient, atol=2e-2)


def test_first_gradients_are_bounded_where_windows_have_no_valid_token():
  # Biases begin at 0, and so the tokens of such windows are 0, when the next block shifts them.
  stage = transformer.TransformerStage(2, 3, 8, 24)
  x = np.random.default_rng(0).standard_normal((1, 24, 24, 12), np.float32)
  mask = np.zeros((1, 24, 24, 1), np.float32)
  mask[:, :8] = 1.0
  x *= mask
  variables = stage.init(jax.random.key(0), x, mask)
  gradients = jax.grad(lambda v: jnp.mean(jnp.square(stage.apply(v, x, mask)[0])))(variables)
  largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradients))
  assert 0.0 < largest < 100.0


def test_linear_resize_matches_the_reference():
  signal = reference.layer_input('sq', (2, 1, 256))[:, 0]
  line = resize_linear(signal, (2, 1024))
  assert reference.relative_error(line, _expected('interp/linear_256_to_1024')[:, 0]) <= 1e-5
  square = reference.layer_input('sq2', (2, 1, 16, 16))
  result = resize_linear(square, (2, 32, 24, 1))
  expected = reference.nhwc(_expected('interp/bilinear_16_to_32x24'))
  assert reference.relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize('shift', [0, 2])
def test_windows_computed_together_are_those_computed_apart(shift):
  alone = transformer.TransformerBlock(2, 4, shift)
  together = transformer.TransformerBlock(2, 4, shift, implementation=dataclasses.replace(
      PORTABLE, attention_tokens=32))
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 12))
  mask = jax.random.bernoulli(jax.random.key(1), 0.3, (2, 8, 8, 1)).astype(jnp.float32)
  mask = mask.at[0, :4, :4].set(0.0)  # a window that has seen nothing
  variables = jax.jit(alone.init)(jax.random.key(2), x, mask)

  @functools.partial(jax.jit, static_argnums=1)
  @functools.partial(jax.grad, has_aux=True)
  def gradients(x, module):
    y, seen = module.apply(variables, x, mask)
    return jnp.sum(jnp.sin(y)), (y, seen)

  gradient, (y, seen) = gradients(x, alone)
  other_gradient, (other_y, other_seen) = gradients(x, together)
  np.testing.assert_allclose(other_y, y, atol=1e-5)
  np.testing.assert_allclose(other_gradient, gradient, atol=1e-5)
  np.testing.assert_array_equal(other_seen, seen)
