import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from mat_jax.nn import transformer
from mat_jax.ops import window_kernel
from mat_jax.ops.implementation import PORTABLE
from mat_jax.runtime import sharding

_HEADS = 3
_KERNEL = dataclasses.replace(PORTABLE, attention='kernel')


def _inputs(shifted, masked):
  """Two images of four windows of 64 tokens, and a cotangent."""
  keys = jax.random.split(jax.random.key(0), 3)
  tokens, cotangent = (jax.random.normal(key, (8, 64, 12)) for key in keys[:2])
  tokens = tokens.at[2, 5].set(0.0)  # a token that no convolution has reached
  bias = transformer.shift_mask(16, 16, 8, 4) if shifted else None
  mask = (jax.random.uniform(keys[2], (8, 64, 1)) > 0.5).astype(jnp.float32) if masked else None
  return tokens, bias, mask, cotangent


def _local(function, count=1):
  """A function of a batch that each of `count` devices computes for its own part."""
  mesh = sharding.make_mesh(jax.devices()[:count])
  cut = PartitionSpec(sharding.AXIS)
  return jax.shard_map(function, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)


@functools.cache
def _variables():
  tokens, bias, mask, _ = _inputs(True, True)
  module = transformer.WindowAttention(_HEADS)
  variables = module.init(jax.random.key(1), tokens, bias, mask)
  # Biases begin at 0.
  return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
                      variables)


def _assert_close(found, expected, message=''):
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.max(np.abs(expected)),
                             err_msg=message)


@pytest.mark.parametrize('shifted,masked', [(True, True), (False, True), (True, False),
                                            (False, False)])
def test_kernel_and_its_gradients_are_those_of_the_products(shifted, masked):
  tokens, bias, mask, cotangent = _inputs(shifted, masked)
  inputs = (tokens,) if mask is None else (tokens, mask)

  def loss(variables, tokens, implementation):
    module = transformer.WindowAttention(_HEADS, implementation)

    def apply(inputs):
      return module.apply(variables, inputs[0], bias, inputs[1] if masked else None)

    result = (_local(apply) if implementation is _KERNEL else apply)((tokens, *inputs[1:]))
    return jnp.sum(result * cotangent), result

  def run(implementation):
    function = jax.value_and_grad(functools.partial(loss, implementation=implementation), (0, 1), has_aux=True)
    with jax.default_matmul_precision('float32'):
      return jax.jit(function)(_variables(), tokens)

  ((_, expected), (by_variables, by_tokens)), ((_, found), gradients) = run(PORTABLE), run(_KERNEL)
  _assert_close(found, expected)
  _assert_close(gradients[1], by_tokens, 'tokens')
  for name, part in by_variables['params'].items():
    for kind, expected in part.items():
      # The logits of a query do not tell what all keys have in common.
      if (name, kind) != ('k', 'bias'):
        _assert_close(gradients[0]['params'][name][kind], expected, f'{name} {kind}')
  np.testing.assert_allclose(gradients[0]['params']['k']['bias'], 0.0, atol=1e-5)


def test_kernel_is_used_only_where_a_device_computes_its_own_batch():
  tokens, bias, mask, _ = _inputs(True, True)
  module = transformer.WindowAttention(_HEADS, _KERNEL)

  def apply(tokens):
    return module.apply(_variables(), tokens, bias, mask)

  assert 'pallas_call' not in str(jax.make_jaxpr(apply)(tokens))
  assert 'pallas_call' in str(jax.make_jaxpr(_local(apply))(tokens))
  # Windows of 5 x 5 do not fill the rows of a TPU's registers.
  assert 'pallas_call' not in str(jax.make_jaxpr(_local(
      lambda x: module.apply(_variables(), x, None, None)))(tokens[:, :25]))


def test_kernel_computes_in_the_dtype_of_the_tokens():
  tokens, bias, mask, _ = _inputs(True, True)
  params = _variables()['params']

  def weights(dtype):
    return window_kernel.Weights(*(
        ((params[name]['kernel'] * 12**-0.5).astype(dtype), params[name]['bias'][None].astype(dtype))
        for name in ('q', 'k', 'v', 'proj')))

  key_bias = -100.0 * (1.0 - mask.swapaxes(1, 2))
  exact = window_kernel.attend(tokens, weights(jnp.float32), _HEADS, bias, key_bias)
  narrow = window_kernel.attend(
      tokens.astype(jnp.bfloat16), weights(jnp.bfloat16), _HEADS, bias, key_bias)
  assert exact.dtype == jnp.float32 and narrow.dtype == jnp.bfloat16
  error = np.linalg.norm(narrow.astype(jnp.float32) - exact) / np.linalg.norm(exact)
  assert 1e-4 < error < 2e-2
