"""Stride-1 convolutions, with the implementation of the kernel gradient that suits a platform.

All maps are NHWC, all kernels HWIO; convolutions are correlations.
"""

import functools
from typing import cast

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp

from mat_jax.ops import lean
from mat_jax.ops.implementation import OPERAND, PORTABLE, Implementation

Padding = tuple[tuple[int, int], tuple[int, int]]

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Channels of what counts as an image rather than a map.
_IMAGE_CHANNELS = 8
# Positions of a strip: with a few hundred channels its rows stay in a core's cache.
_STRIP = 2048


def plain(x: jax.Array, kernel: jax.Array, padding: Padding, stride: int = 1,
          dilation: int = 1) -> jax.Array:
  """XLA's convolution.

  Args:
    x: [N, H, W, I].
    kernel: [h, w, I, O].
    padding: zeros (before, after) each spatial axis.
    stride: of both spatial axes.
    dilation: each pixel is followed by `dilation` - 1 zeros, inserted before the padding.

  Returns:
    [N, H', W', O].
  """
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), padding, lhs_dilation=(dilation, dilation),
      dimension_numbers=_DIMENSIONS)


def convolve(x: jax.Array, kernel: jax.Array, padding: tuple[int, int] = (0, 0),
             implementation: Implementation = PORTABLE) -> jax.Array:
  """Stride-1 correlation.

  Args:
    x: [N, H, W, I].
    kernel: [h, w, I, O].
    padding: zeros on both sides of (height, width).
    implementation: of the heavy operations.

  Returns:
    [N, H + 2 padding - h + 1, ..., O].
  """
  pads = (padding[0], padding[0]), (padding[1], padding[1])
  if implementation.images == 'planes' and kernel.shape[3] <= _IMAGE_CHANNELS and (
      kernel.shape[:2] == (1, 1)):
    return _to_planes(x, kernel[0, 0])
  if implementation.weight_gradient == 'strips':
    return _bilinear(x, kernel, pads)
  if implementation.is_lean and _is_pointwise(kernel, pads) and x.shape[-1] <= lean.FEW:
    return lean.from_few(x, kernel[0, 0])
  x, kernel = checkpoint_name((x, kernel), OPERAND)
  return plain(x, kernel, pads) if implementation.pointwise == 'convolution' else _multiply(
      x, kernel, pads)


def _is_pointwise(kernel: jax.Array, padding: Padding) -> bool:
  return kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0))


def _multiply(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
  """A convolution; a 1x1 kernel without padding is computed as a matmul."""
  if _is_pointwise(kernel, padding):
    return jnp.einsum('nhwi,io->nhwo', x, kernel[0, 0])
  return plain(x, kernel, padding)


@jax.custom_vjp
def _to_planes(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[N, H, W, I], [I, O] -> [N, H, W, O], few channels, each a plane in the memory of a TPU.

  As a convolution the result would have its batch in the 128 lanes, sixteen times the bytes of
  eight images, and as a matmul without layouts it would have XLA move the map to planes too. The
  gradients are sums over planes and products with them, in one pass over the map.
  """
  return _as_planes(jnp.einsum('nhwi,io->nohw', _as_map(x), kernel)).transpose(0, 2, 3, 1)


def _to_planes_backward(kept: tuple[jax.Array, jax.Array],
                        gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = kept
  planes = _as_planes(gradient.transpose(0, 3, 1, 2)).astype(jnp.float32)
  outputs = [planes[:, i, :, :, None] for i in range(kernel.shape[1])]
  by_x = cast(jax.Array, sum(
      output * kernel[:, i].astype(jnp.float32) for i, output in enumerate(outputs)))
  by_kernel = [jnp.sum(x.astype(jnp.float32) * output, (0, 1, 2)) for output in outputs]
  return _as_map(by_x.astype(x.dtype)), jnp.stack(by_kernel, axis=1).astype(kernel.dtype)


_to_planes.defvjp(lambda x, kernel: (_to_planes(x, kernel), (x, kernel)), _to_planes_backward)


def _as_map(x: jax.Array) -> jax.Array:
  """The layout of maps between a TPU's convolutions: channels in lanes, the batch in sublanes."""
  return with_layout_constraint(x, Layout((1, 2, 0, 3)))


def _as_planes(x: jax.Array) -> jax.Array:
  """The layout of images, [N, C, H, W]: columns in lanes, rows in sublanes."""
  return with_layout_constraint(x, Layout((0, 1, 2, 3)))


# A convolution is bilinear in input and kernel. Its derivatives of any order, those of R1 too,
# consist of the same three operations: the convolution, its transpose and the kernel gradient.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _bilinear(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
  return _multiply(x, kernel, padding)


def _bilinear_forward(x, kernel, padding):
  # The input is a residual only if the kernel's gradient is needed.
  kept = x.value if kernel.perturbed else None
  return _bilinear(x.value, kernel.value, padding), (kept, kernel.value)


def _bilinear_backward(padding, residuals, gradient):
  x, kernel = residuals
  if x is None:
    return _transpose(gradient, kernel, padding), None
  kernel_gradient = _kernel_gradient(x, gradient, padding)
  return _transpose(gradient, _after(kernel_gradient, kernel), padding), kernel_gradient


_bilinear.defvjp(_bilinear_forward, _bilinear_backward, symbolic_zeros=True)


def _after(first: jax.Array, x: jax.Array) -> jax.Array:
  """`x`, but not before `first` has been computed.

  XLA's scheduler on the CPU defers kernel gradients to the end of the backward pass, so that
  the maps they need stay in memory until then, and it drops optimisation barriers. No value is
  above infinity, but XLA does not know that and keeps the dependency.
  """
  return jnp.where(first > jnp.inf, first, x)


def _transpose(gradient: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
  """The gradient by the input: a convolution with the flipped kernel."""
  flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  full = tuple((size - 1 - before, size - 1 - after)
               for size, (before, after) in zip(kernel.shape[:2], padding, strict=True))
  return _bilinear(gradient, flipped, full)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(x: jax.Array, gradient: jax.Array, padding: Padding) -> jax.Array:
  """The gradient by the kernel, [h, w, I, O], of [N, H, W, I] and [N, H', W', O].

  XLA's own reaches a tenth of the speed of a matmul on the CPU, and one matmul over the whole map
  transposes it in memory. So the map is cut into strips of rows; the columns that the kernel
  covers are stacked as channels, and each row of the kernel is one matmul.
  """
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  n, rows, columns, outputs = gradient.shape
  inputs, height = x.shape[-1], x.shape[1] - rows + 1
  width = x.shape[2] - columns + 1
  size = min(rows, max(1, _STRIP // columns))
  strips = -(-rows // size)
  # A last strip that is not full gets rows without a gradient.
  missing = ((0, 0), (0, strips * size - rows), (0, 0), (0, 0))
  x, gradient = jnp.pad(x, missing), jnp.pad(gradient, missing)

  def add(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
    image, row = index // strips, index % strips * size
    part = lax.dynamic_slice(
        x, (image, row, 0, 0), (1, size + height - 1, columns + width - 1, inputs))[0]
    part = jnp.concatenate([part[:, j:j + columns] for j in range(width)], axis=-1)
    out = lax.dynamic_slice(gradient, (image, row, 0, 0), (1, size, columns, outputs))
    out = out.reshape(size * columns, outputs).T
    products = [jnp.matmul(out, part[i:i + size].reshape(size * columns, width * inputs),
                           preferred_element_type=jnp.float32) for i in range(height)]
    return total + jnp.stack(products), None

  zeros = jnp.zeros((height, outputs, width * inputs), jnp.float32)
  total, _ = lax.scan(add, zeros, jnp.arange(n * strips))
  total = total.reshape(height, outputs, width, inputs).transpose(0, 2, 3, 1)
  return total.astype(x.dtype)


def _kernel_gradient_forward(x, gradient, padding):
  return _kernel_gradient(x, gradient, padding), (x, gradient)


def _kernel_gradient_backward(padding, residuals, change):
  x, gradient = residuals
  return _transpose(gradient, change, padding), _bilinear(x, change, padding)


_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)
