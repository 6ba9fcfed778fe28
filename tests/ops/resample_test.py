import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.ops import resample
from mat_jax.ops.implementation import Implementation, for_platform
from tests.support import reference

IMPLEMENTATIONS = [
    Implementation(jnp.float32, *fields) for fields in itertools.product(
        ('shifted_adds', 'depthwise'), ('sub_kernels', 'dilated'), ('polyphase', 'strided'),
        ('strips', 'xla'))] + [
            for_platform(jnp.float32, name) for name in ('compact', 'gpu', 'tpu')]


def _inputs():
  x = reference.layer_input('x', (2, 5, 16, 16))
  fir = reference.layer_input('filter', (4, 4))
  return x, fir


@pytest.mark.parametrize('case,up,down,padding,gain', [
    ('up2', 2, 1, (2, 1), 4.0), ('down2', 1, 2, (1, 1), 1.0), ('filter', 1, 1, (2, 1), 1.0)])
def test_upfirdn_matches_the_reference(case, up, down, padding, gain):
  x, fir = _inputs()
  expected = reference.nhwc(reference.load('layers.npz')[f'upfirdn/{case}'])
  result = resample.upfirdn(x, fir, up, down, padding, gain)
  assert reference.relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize('size,up,down', list(itertools.product((1, 3), (1, 2), (1, 2))))
def test_resample_conv_matches_the_reference(size, up, down):
  if up == down == 2:
    with pytest.raises(ValueError, match='up 2, down 2'):
      resample.resample_conv(jnp.zeros((1, 4, 4, 1)), jnp.zeros((size, size, 1, 1)), up, down)
    return
  x, fir = _inputs()
  kernel = reference.layer_input(f'w{size}', (7, 5, size, size))
  # `layer_input` takes a four-dimensional array for a map: [O, k, k, I] -> HWIO.
  kernel = np.transpose(kernel, (1, 2, 3, 0))
  expected = reference.nhwc(
      reference.load('layers.npz')[f'conv/k{size}_up{up}_down{down}'])
  result = resample.resample_conv(x, kernel, up, down, fir)
  assert reference.relative_error(result, expected) <= 1e-5


def _second_order(x, kernel, up, down, implementation):
  """Value, gradients, and the gradient of an R1-like penalty."""
  def energy(x, kernel):
    y = resample.resample_conv(x, kernel, up, down, implementation=implementation)
    return jnp.sum(jnp.sin(y)), y

  def penalty(x, kernel):
    return jnp.sum(jnp.square(jax.grad(energy, has_aux=True)(x, kernel)[0]))

  gradients, y = jax.grad(energy, (0, 1), has_aux=True)(x, kernel)
  return y, *gradients, *jax.grad(penalty, (0, 1))(x, kernel)


@pytest.mark.parametrize('size,up,down', [(1, 1, 1), (3, 1, 1), (1, 2, 1), (3, 2, 1), (1, 1, 2),
                                          (3, 1, 2)])
def test_every_form_is_the_same_function_to_second_order(size, up, down):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 8, 12, 3), np.float32)
  kernel = rng.standard_normal((size, size, 3, 4), np.float32)
  run = jax.jit(_second_order, static_argnums=(2, 3, 4))
  # The general filter path knows nothing of the fast implementations.
  fir = resample.fir_filter()
  expected_value = resample.resample_conv(x, kernel, up, down, fir)
  plain = Implementation(jnp.float32, 'depthwise', 'dilated', 'strided', 'xla')
  expected = run(x, kernel, up, down, plain)
  assert reference.relative_error(expected[0], expected_value) <= 1e-5
  relevant = {(c.fir, c.upsample_conv if up == 2 else '', c.downsample_conv if down == 2 else '',
               c.weight_gradient): c for c in (IMPLEMENTATIONS if size == 3 else IMPLEMENTATIONS[:1])}
  for implementation in relevant.values():
    for value, other in zip(run(x, kernel, up, down, implementation), expected, strict=True):
      assert reference.relative_error(value, other) <= 2e-5, implementation


@pytest.mark.parametrize('implementation', [*IMPLEMENTATIONS[::8], IMPLEMENTATIONS[-1]])
def test_upsample_doubles_and_keeps_a_constant(implementation):
  y = resample.upsample(jnp.ones((1, 6, 4, 2)), implementation)
  assert y.shape == (1, 12, 8, 2)
  np.testing.assert_allclose(y[:, 1:-1, 1:-1], 1.0, rtol=1e-6)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize('resampling', [{'up': 2}, {'down': 2}])
def test_filters_in_float16_do_not_overflow(platform, resampling):
  # Their unscaled sums would be up to 64 times the map, 128,000.
  x, kernel = np.full((1, 8, 8, 1), 2000.0), np.zeros((3, 3, 1, 1))
  kernel[1, 1] = 1.0
  exact, found = (
      resample.resample_conv(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), **resampling,
                             implementation=for_platform(dtype, platform))
      for dtype in (jnp.float32, jnp.float16))
  assert found.dtype == jnp.float16 and jnp.max(exact) > 1900
  np.testing.assert_allclose(found, exact, rtol=2e-3)


def test_platforms_differ_in_forms_and_agree_in_dtype():
  cpu, tpu, gpu = (for_platform(jnp.bfloat16, name) for name in ('cpu', 'tpu', 'gpu'))
  assert cpu.upsample_conv == 'sub_kernels' and tpu.upsample_conv == 'adjoint'
  assert {cpu.dtype, tpu.dtype, gpu.dtype} == {jnp.bfloat16}
