"""Convolutions of maps of few channels whose pairs of columns are folded into channels.

A TPU keeps channels in 128 lanes: of a map of 64 channels half of the memory that it takes, and
most of what its convolutions multiply, is padding. Folded, [N, H, W / 2, 2 C], it fills the lanes.
The kernel of a 3x3 convolution then has as many taps, half of their entries 0, for half of the
positions, and resampling by 2 is a stride of the rows alone, with the low-pass filter merged into
the kernel: it costs no pass over the map.

All maps are NHWC, all kernels HWIO; convolutions are correlations. Derivatives of any order are
those that JAX derives.
"""

import jax
from jax import lax
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def fold(x: jax.Array) -> jax.Array:
  """[N, H, W, C] -> [N, H, W / 2, 2 C], even columns first; W even."""
  n, h, w, c = x.shape
  return x.reshape(n, h, w // 2, 2 * c)


def unfold(x: jax.Array) -> jax.Array:
  """Inverse of `fold`."""
  n, h, w, c = x.shape
  return x.reshape(n, h, 2 * w, c // 2)


def resample_conv(x: jax.Array, kernel: jax.Array, down: int = 1) -> jax.Array:
  """`mat_jax.ops.resample.resample_conv` of a folded map, without upsampling.

  Args:
    x: [N, H, W / 2, 2 I], see `fold`; or an image that is not folded, [N, H, W, I].
    kernel: float32 [k, k, I, O], k 1 or 3; merged with the filter before it is rounded to the
      dtype of `x`.
    down: 1 or 2.

  Returns:
    Folded [N, H, W / 2, 2 O], or [N, H / 2, W / 2, O], which is not folded.
  """
  pad = kernel.shape[0] // 2
  if down == 2:
    pad = 2 if kernel.shape[0] == 3 else 1
    kernel = _filtered(_filtered(kernel, 0), 1)
  inputs = kernel.shape[2]
  kernel, columns = _fold_kernel(kernel, pad, down)
  stride = 1
  if x.shape[-1] == inputs:  # Pairs of columns are then a stride instead.
    kernel = kernel.reshape(kernel.shape[0], -1, inputs, kernel.shape[3])
    stride, columns = 2, (2 * columns[0], 2 * columns[1])
  return lax.conv_general_dilated(x, kernel.astype(x.dtype), (down, stride), ((pad, pad), columns),
                                  dimension_numbers=_DIMENSIONS)


def _filtered(kernel: jax.Array, axis: int) -> jax.Array:
  """The kernel of [1, 3, 3, 1] / 8 along an axis and the convolution after it."""
  total = jnp.zeros((), kernel.dtype)
  for i, tap in enumerate((0.125, 0.375, 0.375, 0.125)):
    pads = [(0, 0)] * 4
    pads[axis] = (i, 3 - i)
    total = total + tap * jnp.pad(kernel, pads)
  return total


def _fold_kernel(kernel: jax.Array, before: int,
                 stride: int) -> tuple[jax.Array, tuple[int, int]]:
  """The kernel for folded maps, and its padding of columns.

  Args:
    kernel: [h, w, I, O].
    before: zeros before the columns of the map.
    stride: of the columns; with 1 the result is folded, with 2 it is not.

  Returns:
    [h, w', 2 I, O or 2 O] with stride 1, and pairs of zeros before and after.
  """
  h, w, inputs, outputs = kernel.shape
  # A tap more makes the padding even, and another one moves the kernel to the odd results.
  odd = before % 2
  taps = w + odd + (stride == 1)
  taps += taps % 2
  parts = []
  for shift in range(2 if stride == 1 else 1):
    front = odd + shift
    part = jnp.pad(kernel, ((0, 0), (front, taps - w - front), (0, 0), (0, 0)))
    parts.append(part.reshape(h, taps // 2, 2 * inputs, outputs))
  pairs = (before + odd) // 2
  return jnp.concatenate(parts, axis=-1), (pairs, taps // 2 - 1 - pairs)
