"""What surrounds convolutions, in few kernels of a GPU that read few maps.

Left to JAX, the gradients of demodulation, noise, bias, style and toRGB are sums over a map along
different axes, which XLA computes in kernels of their own that each read the map again. Here they
are sums over the positions of each image and channel, [N, C]: XLA joins two of them with the
kernel that computes the gradient of the map. Sums and what is between convolutions are in float32.
All functions can be differentiated twice, for R1.
"""

import math
from typing import cast

import jax
import jax.numpy as jnp

FEW = 8  # input channels of `from_few`
_GAIN = math.sqrt(2.0)


def _total(x: jax.Array) -> jax.Array:
  """[N, H, W, C] -> the sum over the positions, float32 [N, C]."""
  return jnp.sum(x, axis=(1, 2), dtype=jnp.float32)


def _over_map(x: jax.Array) -> jax.Array:
  """[N, C] or [C] -> [N or 1, 1, 1, C]."""
  return x.reshape(-1, 1, 1, x.shape[-1])


def _before_activation(y: jax.Array, factor: jax.Array, strength: jax.Array,
                       noise: jax.Array | None, bias: jax.Array) -> jax.Array:
  z = y.astype(jnp.float32) * _over_map(factor)
  return (z if noise is None else z + strength * noise) + _over_map(bias)


@jax.custom_vjp
def finish(y: jax.Array, factor: jax.Array, strength: jax.Array, noise: jax.Array | None,
           bias: jax.Array) -> jax.Array:
  """What follows a modulated convolution: sqrt(2) lrelu(y * factor + strength * noise + bias).

  Args:
    y: result of the convolution [N, H, W, C].
    factor: of the demodulation, float32 [N, C].
    strength: of the noise, float32 [].
    noise: float32 [N or 1, H, W, 1], or None.
    bias: float32 [C].

  Returns:
    [N, H, W, C] in the dtype of `y`.
  """
  z = _before_activation(y, factor, strength, noise, bias)
  return (jnp.where(z > 0.0, z, 0.2 * z) * _GAIN).astype(y.dtype)


def _finish_forward(*arguments):
  return finish(*arguments), arguments


def _finish_backward(arguments, gradient):
  y, factor, strength, noise, bias = arguments
  z = _before_activation(*arguments)
  by_z = gradient.astype(jnp.float32) * jnp.where(z > 0.0, _GAIN, 0.2 * _GAIN)
  by_y, by_factor = (by_z * _over_map(factor)).astype(y.dtype), _total(by_z * y.astype(jnp.float32))
  # XLA computes two sums at most beside a map. These two read the gradient of the convolution.
  by_y = jax.lax.optimization_barrier(by_y)
  stored = by_y.astype(jnp.float32)
  # Behind a barrier, or XLA takes both sums of a bias or of the noise for one, along other axes.
  by_strength, by_bias = jax.lax.optimization_barrier((
      jnp.zeros_like(factor) if noise is None else _total(stored * noise), _total(stored)))
  return (by_y, by_factor, jnp.sum(by_strength / factor),
          None if noise is None else _by_noise(by_z, strength, noise),
          jnp.sum(by_bias / factor, axis=0))


def _by_noise(by_z: jax.Array, strength: jax.Array, noise: jax.Array) -> jax.Array:
  total = jnp.sum(by_z, axis=-1, keepdims=True)
  return strength * (total if noise.shape[0] > 1 else jnp.sum(total, axis=0, keepdims=True))


finish.defvjp(_finish_forward, _finish_backward)


@jax.custom_vjp
def scale(x: jax.Array, style: jax.Array) -> jax.Array:
  """The map [N, H, W, C] times the style, float32 [N, C], of each channel; in the map's dtype."""
  return (x.astype(jnp.float32) * _over_map(style)).astype(x.dtype)


def _scale_backward(arguments, gradient):
  x, style = arguments
  by_result = gradient.astype(jnp.float32)
  return ((by_result * _over_map(style)).astype(x.dtype),
          _total(by_result * x.astype(jnp.float32)))


scale.defvjp(lambda x, style: (scale(x, style), (x, style)), _scale_backward)


@jax.custom_vjp
def mix(x: jax.Array, kernels: jax.Array) -> jax.Array:
  """A 1x1 convolution to few channels with a kernel for each image.

  Args:
    x: [N, H, W, I].
    kernels: float32 [N, I, O].

  Returns:
    float32 [N, H, W, O].
  """
  return jnp.einsum('nhwi,nio->nhwo', x, kernels.astype(x.dtype),
                    preferred_element_type=jnp.float32)


def _mix_backward(arguments, gradient):
  x, kernels = arguments
  by_x = sum(gradient[..., i:i + 1] * _over_map(kernels[..., i])
             for i in range(kernels.shape[-1]))
  by_kernels = jnp.einsum('nhwi,nhwo->nio', x, gradient.astype(x.dtype),
                          preferred_element_type=jnp.float32)
  return by_x.astype(x.dtype), by_kernels


mix.defvjp(lambda x, kernels: (mix(x, kernels), (x, kernels)), _mix_backward)


@jax.custom_vjp
def from_few(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 1x1 convolution of few channels, as a sum that is fused with what follows.

  Args:
    x: [N, H, W, I], I up to `FEW`.
    kernel: [I, O].

  Returns:
    [N, H, W, O] in the dtype of `x`.
  """
  wide, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
  total = cast(jax.Array, sum(wide[..., i:i + 1] * kernel[i] for i in range(kernel.shape[0])))
  return total.astype(x.dtype)


def _from_few_backward(arguments, gradient):
  x, kernel = arguments
  return (jnp.einsum('nhwo,io->nhwi', gradient, kernel),
          jnp.einsum('nhwi,nhwo->io', x, gradient))


from_few.defvjp(lambda x, kernel: (from_few(x, kernel), (x, kernel)), _from_few_backward)
