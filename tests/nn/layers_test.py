import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.nn import blocks, layers, modulation
from mat_jax.nn.discriminator import DiscriminatorBlock
from mat_jax.ops.implementation import PORTABLE, for_platform
from tests.support import reference

IMPLEMENTATION = for_platform()


def _x():
  return reference.layer_input('x', (2, 5, 16, 16))


def _style():
  return reference.layer_input('style', (2, 11))


def _expected(key):
  value = reference.load('layers.npz')[key]
  return reference.nhwc(value) if value.ndim == 4 else value


def _check(module, prefix, key, *inputs):
  variables = reference.filled(module, prefix, *inputs)
  result = module.apply(variables, *inputs)
  assert reference.relative_error(result, _expected(key)) <= 1e-5


@pytest.mark.parametrize('case,options', [
    ('demod', {}), ('plain', {'demodulate': False}), ('up', {'up': 2})])
def test_modulated_convolution_matches_the_reference(case, options):
  module = modulation.ModulatedConv2d(7, 3, implementation=IMPLEMENTATION, **options)
  _check(module, f'modconv_{case}', f'modconv/{case}', _x(), _style())


def test_style_convolution_matches_the_reference():
  _check(modulation.StyleConv(7, 16, implementation=IMPLEMENTATION), 'styleconv', 'styleconv/const', _x(), _style())


def test_to_rgb_matches_the_reference():
  module = modulation.ToRGB(3, IMPLEMENTATION)
  _check(module, 'torgb', 'torgb/noskip', _x(), _style())
  _check(module, 'torgb', 'torgb/skip_up', _x(), _style(),
         reference.layer_input('skip', (2, 3, 8, 8)))


def test_discriminator_block_matches_the_reference():
  _check(DiscriminatorBlock(7, IMPLEMENTATION), 'disblock', 'disblock', _x())


def test_fully_connected_matches_the_reference():
  _check(layers.FullyConnected(7, 'lrelu', 0.01), 'mapping.fc', 'fc/lrmul', _style())


def test_minibatch_std_matches_the_reference():
  x = reference.layer_input('mb', (8, 6, 4, 4))
  assert reference.relative_error(layers.minibatch_std(x), _expected('mbstd')) <= 1e-5


def test_minibatch_std_of_a_shard_is_that_of_the_shard_alone():
  x = np.random.default_rng(0).standard_normal((8, 4, 4, 3), np.float32)
  whole = layers.minibatch_std(x, shards=2)
  parts = [layers.minibatch_std(part) for part in (x[:4], x[4:])]
  np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-6)
  assert not np.allclose(whole, layers.minibatch_std(x))


@pytest.mark.parametrize('batch,shards', [(6, 1), (8, 3)])
def test_minibatch_std_names_a_batch_that_does_not_divide(batch, shards):
  with pytest.raises(ValueError, match=str(batch)):
    layers.minibatch_std(jnp.zeros((batch, 4, 4, 1)), shards=shards)


def test_noise_modes():
  module = modulation.StyleConv(4, 8)
  x, style = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 5))
  variables = module.init(jax.random.key(0), x, style)
  variables['params']['noise_strength'] = jnp.float32(1.0)
  run = lambda mode, seed=0: module.apply(  # noqa: E731
      variables, x, style, mode, rngs={'noise': jax.random.key(seed)})
  assert not np.allclose(run('random'), run('random', 1))
  assert not np.allclose(run('random')[0], run('random')[1]), 'one map per image'
  np.testing.assert_array_equal(run('const')[0], run('const')[1])
  variables['params']['noise_strength'] = jnp.float32(0.0)
  np.testing.assert_array_equal(run('random'), run('none'))
  with pytest.raises(ValueError, match='noise_mode'):
    run('loud')
  with pytest.raises(ValueError, match='constant noise'):
    module.apply(variables, jnp.ones((2, 16, 16, 3)), style, 'const')


def test_bfloat16_compute_keeps_float32_parameters():
  module = modulation.StyleConv(4, 8, implementation=for_platform(jnp.bfloat16))
  x, style = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 5))
  variables = module.init(jax.random.key(0), x, style)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  assert module.apply(variables, x, style).dtype == jnp.bfloat16


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('options', [
    {'kernel_size': 3}, {'kernel_size': 3, 'up': 2}, {'kernel_size': 1, 'demodulate': False}])
def test_huge_styles_do_not_overflow_in_float16(platform, options):
  # 50 * 3e4 is beyond float16, whose numbers end at 65504, as are the sums without demodulation.
  x = 50.0 * jax.random.normal(jax.random.key(0), (2, 8, 8, 16))
  style = 3e4 * jax.random.normal(jax.random.key(1), (2, 5))

  def run(dtype):
    module = modulation.ModulatedConv2d(4, implementation=for_platform(dtype, platform), **options)
    return jax.jit(functools.partial(gradients, module))(module.init(jax.random.key(2), x, style))

  def gradients(module, variables):
    y, pullback = jax.vjp(lambda *inputs: module.apply(inputs[0], x, inputs[1]), variables, style)
    # Of a size between the ends of float16, as loss scaling provides.
    return y, pullback(y / jnp.sum(jnp.square(y)))

  exact, found = run(jnp.float32), run(jnp.float16)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      b, a, rtol=0.01, atol=0.01 * np.abs(a).max()), exact, found)


@pytest.mark.parametrize('activation', ['lrelu', 'linear'])
def test_results_in_float16_are_clamped_on_both_sides_with_their_derivatives(activation):
  x = jnp.array([-1e5, -100.0, 100.0, 1e5], jnp.float32)
  run = lambda dtype: jax.vjp(  # noqa: E731
      lambda x: layers.activate(x, activation, dtype=dtype), x)
  (exact, exact_pullback), (found, pullback) = run(jnp.float32), run(jnp.float16)
  assert found.dtype == jnp.float16
  np.testing.assert_allclose(found, np.clip(exact, -256, 256), rtol=1e-3)
  (slopes,), (exact_slopes,) = pullback(jnp.ones(4, jnp.float16)), exact_pullback(jnp.ones(4))
  assert np.all(exact_slopes != 0)
  np.testing.assert_allclose(slopes, exact_slopes * np.array([0, 1, 1, 0]), rtol=1e-3)


@pytest.mark.parametrize('make', [
    lambda implementation: (layers.Conv2d(4, 3, implementation=implementation), 1),
    lambda implementation: (modulation.StyleConv(4, 8, implementation=implementation), 2),
    lambda implementation: (modulation.ToRGB(implementation=implementation), 2)])
def test_layers_in_float16_are_clamped(make):
  module, inputs = make(for_platform(jnp.float16))
  x, style = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 5))
  variables = module.init(jax.random.key(0), *(x, style)[:inputs])
  variables['params']['bias'] += 1e6
  found, pullback = jax.vjp(lambda x: module.apply(variables, *(x, style)[:inputs]), x)
  np.testing.assert_array_equal(found, jnp.full(found.shape, 256.0))
  assert not np.any(pullback(jnp.ones_like(found))[0])


def test_gradients_of_biases_in_float16_are_summed_in_float32():
  module = layers.Conv2d(4, 3, 'linear', implementation=for_platform(jnp.float16))
  x = jnp.ones((1, 64, 64, 3))
  variables = module.init(jax.random.key(0), x)
  gradient = jax.grad(lambda v: jnp.sum(module.apply(v, x).astype(jnp.float32)))(variables)
  # A sum of ones in float16 would end at 2048.
  np.testing.assert_array_equal(gradient['params']['bias'], jnp.full(4, 64.0**2))


@pytest.mark.parametrize('make', [
    lambda implementation: (modulation.ToRGB(implementation=implementation), ((2, 4, 4, 6), (2, 5), (2, 4, 4, 3))),
    lambda implementation: (modulation.ToRGB(implementation=implementation), ((2, 4, 4, 6), (2, 5), (2, 2, 2, 3))),
    lambda implementation: (layers.FullyConnected(7, 'lrelu', implementation=implementation), ((2, 4, 4, 6),)),
    lambda implementation: (modulation.StyleConv(5, 4, implementation=implementation), ((2, 4, 4, 6), (2, 5))),
    lambda implementation: (modulation.StyleConv(5, 8, 2, False, implementation), ((2, 4, 4, 6), (2, 5))),
    lambda implementation: (layers.Conv2d(7, 3, down=2, implementation=implementation), ((2, 4, 4, 6),))],
    ids=['image', 'smaller_image', 'fully_connected', 'modulated', 'modulated_up', 'downsampling'])
@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
def test_forms_of_a_platform_agree_with_the_portable_ones(make, platform):
  def gradients(implementation):
    module, shapes = make(implementation)
    inputs = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    variables = module.init(jax.random.key(9), *inputs)
    buffers = {name: variables.pop(name) for name in ('buffers',) if name in variables}
    # Not 0, as they begin.
    variables = jax.tree.map(lambda x: x + 0.1, variables)
    return jax.jit(jax.grad(
        lambda variables, inputs: jnp.sum(jnp.sin(module.apply(variables | buffers, *inputs))),
        (0, 1)))(variables, inputs)

  found, expected = gradients(for_platform(platform=platform)), gradients(PORTABLE)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_a_synthesis_block_for_gpus_is_the_portable_one():
  # Its convolutions' operands and results are kept, the rest is computed again.
  shapes = ((2, 4, 4, 6), (2, 4, 4, 3), (2, 8, 8, 5))
  x, rgb, skip = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
  styles = tuple(jax.random.normal(jax.random.key(10 + i), (2, 7)) for i in range(3))

  def gradients(implementation):
    block = implementation.block(blocks.SynthesisBlock, static_argnums=(4,), modulated=True)(
        5, 8, True, implementation)
    variables = block.init(jax.random.key(9), x, rgb, skip, styles, 'const')
    params = jax.tree.map(lambda x: x + 0.1, variables.pop('params'))

    def loss(params, x, rgb, skip, styles):
      y, image = block.apply({'params': params, **variables}, x, rgb, skip, styles, 'const')
      return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(image))

    return jax.jit(jax.grad(loss, (0, 1, 2, 3, 4)))(params, x, rgb, skip, styles)

  found, expected = gradients(for_platform(platform='gpu')), gradients(PORTABLE)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=2e-5 * np.abs(b).max()), found, expected)
