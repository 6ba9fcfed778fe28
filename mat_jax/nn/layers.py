"""Layers of StyleGAN2 as MAT uses them: equalised learning rate, activations.

Kernels are stored with unit variance and scaled when used (equalised learning
rate, arXiv 1710.10196). Maps are NHWC. Parameters are float32; matmuls and convolutions
run in the dtype of `Implementation`. `mat_jax.ops.float16` says what is different in float16;
modulated convolutions are in `mat_jax.nn.modulation`.
"""

import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.ops import convolution, float16, folded, resample
from mat_jax.ops.float16 import upcast
from mat_jax.ops.implementation import PORTABLE, Implementation


def activate(x: jax.Array, activation: str, gain: float = 1.0,
             dtype: Any = None) -> jax.Array:
  """Activation of a layer.

  Args:
    x: of any shape.
    activation: 'lrelu': leaky ReLU of slope 0.2, times sqrt(2) and `gain`; 'linear': times `gain`.
    gain: a factor.
    dtype: the compute dtype; None for that of `x`, which may also be float32 for float16.

  Returns:
    The result in the compute dtype; in float16 clamped to +-`float16.LIMIT`.
  """
  is_float16 = (dtype or x.dtype) == jnp.float16
  x = upcast(x)
  if activation == 'lrelu':
    return _leaky_relu(x, math.sqrt(2.0) * gain, is_float16)
  if activation == 'linear':
    x = x if gain == 1.0 else x * gain
    return float16.clamp(x) if is_float16 else x
  raise ValueError(f'unknown activation {activation!r}')


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _leaky_relu(x: jax.Array, scale: float, is_float16: bool) -> jax.Array:
  """Leaky ReLU of slope 0.2, times `scale` > 0; to float16, `x` is float32 and the result clamped.

  The derivative takes the slope from the sign of the result, which is a residual of the next
  layer anyway: neither the input nor its signs are residuals. It is differentiable, for R1.
  """
  y = jnp.where(x > 0.0, x, 0.2 * x) * scale
  return float16.clamp(y) if is_float16 else y


def _leaky_relu_forward(x: jax.Array, scale: float,
                        is_float16: bool) -> tuple[jax.Array, jax.Array]:
  y = _leaky_relu(x, scale, is_float16)
  return y, y


def _leaky_relu_backward(scale: float, is_float16: bool, y: jax.Array,
                         gradient: jax.Array) -> tuple[jax.Array]:
  slope = jnp.where(y > 0.0, scale, 0.2 * scale)
  if not is_float16:
    return (gradient * slope.astype(gradient.dtype),)
  slope = jnp.where(jnp.abs(y) < float16.LIMIT, slope, 0.0)
  return (upcast(gradient) * slope,)


_leaky_relu.defvjp(_leaky_relu_forward, _leaky_relu_backward)


def normalize_second_moment(x: jax.Array, epsilon: float = 1e-8) -> jax.Array:
  """Scales each row of [N, C] to a mean square of 1."""
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)


def minibatch_std(x: jax.Array, group_size: int = 4, shards: int | None = 1) -> jax.Array:
  """Appends the standard deviation over groups of images as one channel.

  Progressive GAN (arXiv 1710.10196), section 3. Within a shard of n images,
  image i belongs to group i mod (n / G), G = min(group_size, n).

  Args:
    x: [N, H, W, C].
    group_size: images in a group.
    shards: number of contiguous parts of the batch within which groups are formed; None
      makes every group a part. Groups then consist of neighbours, so that the result does not
      depend on how the batch is split, as long as groups stay whole: on any number of
      devices, without communication, and in microbatches.

  Returns:
    [N, H, W, C + 1].

  Raises:
    ValueError: when the sizes do not divide.
  """
  n, h, w, c = x.shape
  shards = max(1, n // group_size) if shards is None else shards
  if n % shards:
    raise ValueError(f'minibatch std cannot cut a batch of {n} into {shards} shards')
  size = min(group_size, n // shards)
  if (n // shards) % size:
    raise ValueError(
        f'minibatch std cannot group {n // shards} images by {size}; '
        f'choose a batch that {size} divides')
  groups = n // shards // size
  y = x.astype(jnp.float32).reshape(shards, size, groups, h, w, c)
  y = jnp.sqrt(jnp.var(y, axis=1) + 1e-8)
  y = jnp.mean(y, axis=(2, 3, 4))[:, None, :]
  y = jnp.broadcast_to(y, (shards, size, groups)).reshape(n, 1, 1, 1)
  y = jnp.broadcast_to(y, (n, h, w, 1)).astype(x.dtype)
  return jnp.concatenate([x, y], axis=-1)


def equalized_gain(kernel: tuple[int, ...]) -> float:
  """1 / sqrt(fan-in) of a kernel [h, w, I, O]: the factor of the equalised learning rate.

  It is applied to the results, or to the styles, which needs no scaled copy of the kernel.
  """
  return 1.0 / math.sqrt(math.prod(kernel[:3]))


def _place_gain(kernel: jax.Array, gain: float,
                implementation: Implementation) -> tuple[jax.Array, float]:
  """A kernel, and the factor that is left for the result of its convolution or matmul."""
  # In float16 the kernel's gradient, larger without the factor, would overflow sooner.
  if implementation.equalized == 'results' or implementation.dtype == jnp.float16:
    return kernel, gain
  return kernel * gain, 1.0


class FullyConnected(nn.Module):
  """Equalised dense layer: act(x @ (kernel * m / sqrt(in)) + bias * m).

  Attributes:
    features: output width.
    activation: 'linear' or 'lrelu'.
    lr_multiplier: m; the kernel is stored divided by it.
    bias_init: initial bias.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  activation: str = 'linear'
  lr_multiplier: float = 1.0
  bias_init: float = 0.0
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., in] -> [..., features]."""
    dtype = self.implementation.dtype
    kernel, bias, gain = self._weights(x.shape[-1])
    kernel, gain = _place_gain(kernel, gain, self.implementation)
    y = upcast(self._product(x.astype(dtype), kernel.astype(dtype)))
    y = y if gain == 1.0 else gain * y
    return activate(y + bias.astype(y.dtype), self.activation, dtype=dtype)

  def _weights(self, inputs: int) -> tuple[jax.Array, jax.Array, float]:
    """Kernel [inputs, features], bias, and the factor on a matmul with the kernel."""
    kernel = self.param(
        'kernel', self.implementation.normal(1.0 / self.lr_multiplier), (inputs, self.features))
    bias = self.param('bias', nn.initializers.constant(self.bias_init), (self.features,))
    return kernel, bias * self.lr_multiplier, self.lr_multiplier / math.sqrt(inputs)

  def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if x.ndim == 4 and self.implementation.pointwise == 'convolution':
      return convolution.convolve(x, kernel[None, None], implementation=self.implementation)
    return x @ kernel


class FullyConnectedWeights(FullyConnected):
  """The parameters of `FullyConnected`, for a matmul that is computed elsewhere."""

  @nn.compact
  def __call__(  # type: ignore[override]  # It shares parameters and is no layer.
      self, inputs: int) -> tuple[jax.Array, jax.Array]:
    """Kernel [inputs, features] and bias [features] as they are used, in the compute dtype."""
    kernel, bias, gain = self._weights(inputs)
    return (kernel * gain).astype(self.implementation.dtype), bias.astype(self.implementation.dtype)


class Conv2d(nn.Module):
  """Equalised convolution with optional FIR resampling.

  Attributes:
    features: output channels.
    kernel_size: odd.
    activation: 'linear' or 'lrelu'.
    up: 1 or 2.
    down: 1 or 2.
    use_bias: adds a bias before the activation.
    gain: extra factor on the activation (sqrt(1/2) in residual blocks).
    folded: computed with pairs of columns as channels (`mat_jax.ops.folded`).
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  kernel_size: int
  activation: str = 'lrelu'
  up: int = 1
  down: int = 1
  use_bias: bool = True
  gain: float = 1.0
  folded: bool = False
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, in] -> [N, H * up / down, W * up / down, features]."""
    dtype = self.implementation.dtype
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.implementation.normal(1.0), shape)
    kernel, gain = _place_gain(kernel, equalized_gain(shape), self.implementation)
    if self.folded:
      # Folding an image would copy it to another layout.
      x = x.astype(dtype) if x.shape[-1] <= 4 else folded.fold(x.astype(dtype))
      y = upcast(folded.resample_conv(x, kernel, self.down))
    else:
      y = upcast(resample.resample_conv(
          x.astype(dtype), kernel.astype(dtype), self.up, self.down,
          implementation=self.implementation))
    y = y if gain == 1.0 else y * gain
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      if y.shape[-1] != self.features:  # It is folded.
        bias = jnp.tile(bias, 2)
      y = y + bias.astype(y.dtype)
      y = float16.store_gradient(y) if dtype == jnp.float16 else y
    y = activate(y, self.activation, self.gain, dtype)
    return y if y.shape[-1] == self.features else folded.unfold(y)
