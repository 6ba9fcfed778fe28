"""Modulated convolutions (StyleGAN2, arXiv 1912.04958, section 2.2), and the layers made of them.

Maps are NHWC; equalised learning rate and dtypes are as in `mat_jax.nn.layers`.
"""

import dataclasses
import math

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp

from mat_jax.nn.layers import FullyConnected, equalized_gain
from mat_jax.ops import float16, lean, resample
from mat_jax.ops.float16 import upcast
from mat_jax.ops.implementation import OPERAND, PORTABLE, Implementation


class ModulatedConv2d(nn.Module):
  """Modulated convolution: a style scales its input channels (StyleGAN2, section 2.2).

  Scaling the input by the style and the output by the demodulation factor
  around one shared convolution equals the grouped convolution with one kernel
  per image, and is far cheaper.

  Attributes:
    features: output channels.
    kernel_size: odd.
    demodulate: scales every output channel to unit expected standard deviation.
    up: 1 or 2.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  kernel_size: int
  demodulate: bool = True
  up: int = 1
  implementation: Implementation = PORTABLE

  def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
    """[N, H, W, in], [N, S] -> [N, H * up, W * up, features]; from float16 to float32."""
    y, factor = self.unfinished(x, style)
    return y if factor is None else y * factor.astype(y.dtype)[:, None, None, :]

  @nn.compact
  def unfinished(self, x: jax.Array, style: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """The result but for its last step, a factor [N, features] on it, if any."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    scale = self._styles(style, x.shape[-1]) * equalized_gain(shape)
    kernel = self.param('kernel', self.implementation.normal(1.0), shape)
    # Large styles would make sums of the convolution overflow, so that the largest one of each
    # image is a factor on the result instead. It cancels out, and so it has no gradient.
    factor = _largest(scale) / equalized_gain(shape) if self._is_float16 else None
    y = upcast(self._convolve(x, scale if factor is None else scale / factor, kernel))
    if self.demodulate:
      # As a sum of slices: XLA's reduction of leading axes is slow on the CPU.
      power = sum(jnp.square(kernel[i, j]) for i in range(shape[0]) for j in range(shape[1]))
      norm = jax.lax.rsqrt(jnp.square(scale.astype(jnp.float32)) @ power + 1e-8)
      factor = norm if factor is None else factor * norm
    return y, factor

  @property
  def _is_float16(self) -> bool:
    return bool(self.implementation.dtype == jnp.float16)

  def _styles(self, style: jax.Array, features: int) -> jax.Array:
    """[N, S] -> scales of the input channels [N, features]; in float32 for float16."""
    implementation = self.implementation
    if self._is_float16:
      implementation = dataclasses.replace(implementation, dtype=jnp.float32)
    return FullyConnected(features, bias_init=1.0, implementation=implementation,
                          name='affine')(style)

  def _convolve(self, x: jax.Array, scale: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of the scaled map [N, H, W, in], scales [N, in], in the compute dtype."""
    dtype = self.implementation.dtype
    x = x.astype(dtype)
    if not self.demodulate and self.up == 1 and kernel.shape[:2] == (1, 1) and (
        self.implementation.pointwise == 'matmul'):
      # A small kernel per image avoids a scaled copy of the map. (On a TPU the scaling is fused
      # into the convolution, and this would change the layout of the map.)
      kernels = kernel[0, 0] * scale[:, :, None]
      if self.implementation.has_lean_modulation:
        return lean.mix(checkpoint_name(x, OPERAND), kernels.astype(jnp.float32))
      return jnp.einsum('nhwi,nio->nhwo', x, kernels.astype(dtype))
    scaled = (lean.scale(x, scale.astype(jnp.float32)) if self.implementation.has_lean_modulation
              else (upcast(x) * scale[:, None, None, :]).astype(dtype))
    return resample.resample_conv(
        scaled, kernel.astype(dtype), up=self.up, implementation=self.implementation)


def _largest(scale: jax.Array) -> jax.Array:
  """The largest magnitude of each row of [N, C], [N, 1], and not 0; a constant."""
  largest = jnp.max(jnp.abs(jax.lax.stop_gradient(scale)), axis=-1, keepdims=True)
  return jnp.maximum(largest, 1e-8)


class StyleConv(nn.Module):
  """Modulated convolution, noise, bias and leaky ReLU.

  Attributes:
    features: output channels.
    resolution: side of the constant noise map, that of the output at the native resolution.
    up: 1 or 2.
    use_noise: has a noise strength and a constant noise map.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  resolution: int
  up: int = 1
  use_noise: bool = True
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array, style: jax.Array, noise_mode: str = 'const') -> jax.Array:
    """[N, H, W, in], [N, S] -> [N, H * up, W * up, features].

    Args:
      x: [N, H, W, in].
      style: [N, S].
      noise_mode: 'random' (one fresh map per image from the 'noise' stream),
        'const' (the stored map, [H * up, W * up], or one per image with N in front)
        or 'none'.
    """
    conv = ModulatedConv2d(self.features, 3, up=self.up, implementation=self.implementation,
                           name='conv')
    if self.implementation.has_lean_modulation:
      y, factor = conv.unfinished(x, style)
      assert factor is not None, 'it demodulates'
      return self._finish(y, factor, noise_mode)
    y = conv(x, style)
    if self.use_noise:
      y = self._add_noise(y, noise_mode)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    # Not `activate`: y, which has the signs, is a residual of the demodulation anyway.
    y = y + bias.astype(y.dtype)
    if self.implementation.dtype != jnp.float16:
      return jnp.where(y > 0.0, y, 0.2 * y) * math.sqrt(2.0)
    y = float16.store_gradient(y) if self.use_noise else y
    y = jnp.where(y > 0.0, y, 0.2 * y) * math.sqrt(2.0)
    return jax.lax.clamp(-float16.LIMIT, y, float16.LIMIT).astype(jnp.float16)

  @nn.nowrap
  def _finish(self, y: jax.Array, factor: jax.Array, noise_mode: str) -> jax.Array:
    """Demodulation, noise, bias and activation of `mat_jax.ops.lean`."""
    strength, noise = (self._noise(y.shape, noise_mode) if self.use_noise
                       else (jnp.float32(0.0), None))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return lean.finish(y, factor.astype(jnp.float32), strength, noise, bias)

  @nn.nowrap
  def _add_noise(self, y: jax.Array, noise_mode: str) -> jax.Array:
    strength, noise = self._noise(y.shape, noise_mode)
    return y if noise is None else y + (strength * noise).astype(y.dtype)

  @nn.nowrap
  def _noise(self, shape: tuple[int, ...], noise_mode: str) -> tuple[jax.Array, jax.Array | None]:
    """The strength, and the noise map [N or 1, H, W, 1] or None."""
    n, h, w, _ = shape
    strength = self.param('noise_strength', nn.initializers.zeros, ())
    stored = self.variable(
        'buffers', 'noise_const',
        lambda: self.implementation.normal(1.0)(self.make_rng('params'), (self.resolution,) * 2))
    if noise_mode == 'none':
      return strength, None
    if noise_mode == 'const':
      if (h, w) != stored.value.shape[-2:]:
        raise ValueError(
            f'constant noise is stored for {stored.value.shape}, the map is {(h, w)}; '
            "use noise_mode='random' or 'none' on other sizes")
      return strength, stored.value.reshape(-1, h, w, 1)
    if noise_mode == 'random':
      return strength, jax.random.normal(self.make_rng('noise'), (n, h, w, 1))
    raise ValueError(f"noise_mode is {noise_mode!r}, not 'random', 'const' or 'none'")


class ToRGB(nn.Module):
  """Modulated 1x1 convolution to three channels on top of the previous image.

  Attributes:
    features: image channels.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int = 3
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array, style: jax.Array, skip: jax.Array | None = None) -> jax.Array:
    """[N, H, W, in], [N, S] -> float32 [N, H, W, features].

    Args:
      x: [N, H, W, in].
      style: [N, S].
      skip: previous image [N, H, W, features], or at half the size, then it is
        enlarged by the FIR filter.
    """
    y = ModulatedConv2d(
        self.features, 1, demodulate=False, implementation=self.implementation,
        name='conv')(x, style)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    if self.implementation.images == 'planes':
      y = with_layout_constraint(y, Layout((0, 3, 1, 2)))
    # RGB images of up to seven resolutions are summed, in float32.
    y = y.astype(jnp.float32) + bias
    if self.implementation.dtype == jnp.float16:
      y = jax.lax.clamp(-float16.LIMIT, y, float16.LIMIT)
    if skip is None:
      return y
    if skip.shape[1:3] != y.shape[1:3]:
      skip = resample.upsample(skip, self.implementation)
    return y + skip
