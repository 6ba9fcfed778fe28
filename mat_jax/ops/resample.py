"""FIR resampling and the convolutions around it (StyleGAN2, arXiv 1912.04958).

All maps are NHWC, all kernels HWIO; convolutions are correlations. The FIR
filter of MAT is outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64.
"""

from typing import cast

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from mat_jax.ops import convolution, fir_taps, strided
from mat_jax.ops.float16 import upcast
from mat_jax.ops.implementation import CONVOLUTION, OPERAND, PORTABLE, Implementation

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def fir_filter() -> np.ndarray:
  """The low-pass filter of every resampling layer: float32 [4, 4], sum 1."""
  taps = np.array([1.0, 3.0, 3.0, 1.0], np.float32)
  return np.outer(taps, taps) / 64.0


def upfirdn(x: jax.Array, fir: np.ndarray, up: int = 1, down: int = 1,
            padding: tuple[int, int] = (0, 0), gain: float = 1.0) -> jax.Array:
  """Inserts zeros, pads, convolves with any `fir` and subsamples.

  Args:
    x: [N, H, W, C].
    fir: [h, w] filter; the convolution is a true one (the filter is flipped).
    up: factor of zero insertion (each pixel is followed by up - 1 zeros).
    down: every `down`-th pixel of the result is kept.
    padding: zeros (before, after) each spatial axis, after the insertion.
    gain: factor on the result.

  Returns:
    [N, H', W', C] in the dtype of `x`.
  """
  channels = x.shape[-1]
  kernel = jnp.asarray(np.flip(fir) * gain, x.dtype)[:, :, None, None]
  kernel = jnp.tile(kernel, (1, 1, 1, channels))
  pads = [(padding[0], padding[1] + up - 1)] * 2
  return lax.conv_general_dilated(
      x, kernel, (down, down), pads, lhs_dilation=(up, up),
      dimension_numbers=_DIMENSIONS, feature_group_count=channels)


def _filter_axis(x: jax.Array, axis: int, padding: tuple[int, int], stride: int) -> jax.Array:
  """Unscaled [1, 3, 3, 1] along one axis as shifted adds."""
  pads = [(0, 0)] * x.ndim
  pads[axis] = padding
  x = jnp.pad(x, pads)
  size = (x.shape[axis] - 4) // stride + 1
  shifted = [
      lax.slice_in_dim(x, tap, tap + (size - 1) * stride + 1, stride, axis) for tap in range(4)]
  return (shifted[0] + shifted[3]) + 3.0 * (shifted[1] + shifted[2])


def blur(x: jax.Array, padding: tuple[int, int], down: int = 1, gain: float = 1.0,
         implementation: Implementation = PORTABLE) -> jax.Array:
  """The low-pass filter, keeping every `down`-th pixel.

  Args:
    x: [N, H, W, C].
    padding: zeros (before, after) each spatial axis; (1, 1) with `down` 2.
    down: subsampling factor.
    gain: a factor on the result.
    implementation: of the heavy operations.

  Returns:
    [N, (H + padding - 4) // down + 1, ..., C].
  """
  if implementation.fir == 'taps':
    return fir_taps.downsample(x, gain) if down == 2 else fir_taps.blur(x, padding, gain)
  y = _blur(x, padding, down, implementation)
  return y if gain == 1.0 else y * gain


def _blur(x: jax.Array, padding: tuple[int, int], down: int,
          implementation: Implementation) -> jax.Array:
  if implementation.fir == 'depthwise':
    return upfirdn(x, fir_filter(), down=down, padding=padding)
  if x.dtype == jnp.float16:  # The unscaled sums, 64 times the map, could overflow.
    for axis in (1, 2):
      x = (_filter_axis(upcast(x), axis, padding, down) * 0.125).astype(jnp.float16)
    return x
  x = _filter_axis(x, 1, padding, down)
  return _filter_axis(x, 2, padding, down) * (1.0 / 64.0)


def _interleave(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
  shape = list(even.shape)
  shape[axis] *= 2
  return jnp.stack([even, odd], axis + 1).reshape(shape)


def _upsample_axis(x: jax.Array, axis: int) -> jax.Array:
  """[1, 3, 3, 1] / 4 over the zero-inserted axis, by its two polyphase components."""
  size = x.shape[axis]
  pads = [(0, 0)] * x.ndim
  pads[axis] = (1, 1)
  padded = jnp.pad(x, pads)
  before = lax.slice_in_dim(padded, 0, size, axis=axis)
  after = lax.slice_in_dim(padded, 2, size + 2, axis=axis)
  middle = 3.0 * x
  return _interleave(before + middle, middle + after, axis)


def upsample(x: jax.Array, implementation: Implementation = PORTABLE) -> jax.Array:
  """2x upsampling with the FIR filter (padding (2, 1), gain 4): [N, 2H, 2W, C]."""
  # A convolution would put the batch of an image of three channels into the TPU's 128 lanes.
  if implementation.fir == 'taps':
    return fir_taps.upsample(x)
  if implementation.fir == 'depthwise' and x.shape[-1] > 4:
    return upfirdn(x, fir_filter(), up=2, padding=(2, 1), gain=4.0)
  return _upsample_axis(_upsample_axis(x, 1), 2) * (1.0 / 16.0)


def _blur_dilated_axis(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
  """[1, 3, 3, 1] with padding (1, 1) on a map given by its even and odd entries.

  `even` has one entry more than `odd` along `axis`; the result has twice the
  entries of `odd`.
  """
  size = odd.shape[axis]
  pads = [(0, 0)] * odd.ndim
  pads[axis] = (1, 1)
  padded = jnp.pad(odd, pads)
  left, right = (lax.slice_in_dim(even, k, size + k, axis=axis) for k in (0, 1))
  before, after = (lax.slice_in_dim(padded, k, size + k, axis=axis) for k in (0, 2))
  return _interleave(
      (before + right) + 3.0 * (left + odd), (left + after) + 3.0 * (odd + right), axis)


def _upsample_conv_sub_kernels(x: jax.Array, kernel: jax.Array,
                               implementation: Implementation) -> jax.Array:
  """The zero-inserted k3 convolution split by output parity, merged into the FIR."""
  rows = []
  for row_taps, row_pad in ((slice(0, 3, 2), 1), (slice(1, 2), 0)):
    even, odd = (
        convolution.convolve(x, kernel[row_taps, column_taps], (row_pad, column_pad),
                             implementation)
        for column_taps, column_pad in ((slice(0, 3, 2), 1), (slice(1, 2), 0)))
    rows.append(_blur_dilated_axis(upcast(even), upcast(odd), 2))
  return (_blur_dilated_axis(rows[0], rows[1], 1) * (1.0 / 16.0)).astype(x.dtype)


def _upsample_conv(x: jax.Array, kernel: jax.Array, fir: np.ndarray | None,
                   implementation: Implementation) -> jax.Array:
  if kernel.shape[0] == 1:
    x = convolution.convolve(x, kernel, implementation=implementation)
    return upsample(x, implementation) if fir is None else upfirdn(x, fir, 2, 1, (2, 1), 4.0)
  if fir is None and implementation.upsample_conv == 'sub_kernels':
    return _upsample_conv_sub_kernels(x, kernel, implementation)
  if implementation.upsample_conv == 'adjoint':
    x, kernel = checkpoint_name((x, kernel), OPERAND)
    x = strided.transposed(x, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  else:
    x = convolution.plain(x, kernel, ((2, 2), (2, 2)), dilation=2)
  if fir is None:
    return blur(x, (1, 1), gain=4.0, implementation=implementation)
  return upfirdn(x, fir, padding=(1, 1), gain=4.0)


@jax.custom_vjp
def _phases(x: jax.Array) -> tuple[tuple[jax.Array, ...], ...]:
  """[N, H, W, C] -> even and odd rows, each as even and odd columns.

  By default the gradient of each strided slice is a map with zeros inserted, and the four are
  added; here the four gradients are interleaved instead.
  """
  return tuple(tuple(x[:, i::2, j::2] for j in range(2)) for i in range(2))


def _phases_forward(x):
  return _phases(x), None


def _phases_backward(_, gradients):
  rows = [_merge(even, odd, 2) for even, odd in gradients]
  return (_merge(*rows, 1),)


_phases.defvjp(_phases_forward, _phases_backward)


def _merge(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
  """Even and odd entries along an axis, of which `odd` may have one less, in their order."""
  size = even.shape[axis] + odd.shape[axis]
  pads = [(0, 0)] * odd.ndim
  pads[axis] = (0, even.shape[axis] - odd.shape[axis])
  return lax.slice_in_dim(_interleave(even, jnp.pad(odd, pads), axis), 0, size, axis=axis)


def _strided_conv_polyphase(x: jax.Array, kernel: jax.Array,
                            implementation: Implementation) -> jax.Array:
  """Stride-2 VALID k3 convolution as four convolutions over the input's polyphase components."""
  phases = _phases(x)
  return cast(jax.Array, sum(
      convolution.convolve(phases[i][j], kernel[i::2, j::2], implementation=implementation)
      for i in range(2) for j in range(2)))


def _downsample_conv(x: jax.Array, kernel: jax.Array, fir: np.ndarray | None,
                     implementation: Implementation) -> jax.Array:
  pad, down = ((1, 1), 2) if kernel.shape[0] == 1 else ((2, 2), 1)
  if fir is None:
    x = blur(x, pad, down, implementation=implementation)
  else:
    x = upfirdn(x, fir, down=down, padding=pad)
  if kernel.shape[0] == 1:
    return convolution.convolve(x, kernel, implementation=implementation)
  if implementation.downsample_conv == 'polyphase':
    return _strided_conv_polyphase(x, kernel, implementation)
  if implementation.downsample_conv == 'adjoint':
    x, kernel = checkpoint_name((x, kernel), OPERAND)
    return strided.strided(x, kernel)
  return convolution.plain(x, kernel, ((0, 0), (0, 0)), stride=2)


def resample_conv(x: jax.Array, kernel: jax.Array, up: int = 1, down: int = 1,
                  fir: np.ndarray | None = None,
                  implementation: Implementation = PORTABLE) -> jax.Array:
  """Convolution with optional 2x up- or downsampling, low-pass filtered.

  Args:
    x: [N, H, W, I], H and W even when `down` is 2.
    kernel: [k, k, I, O]; k odd, 1 or 3 when resampling.
    up: 1 or 2.
    down: 1 or 2, not together with `up`.
    fir: a 4x4 filter other than MAT's; None takes MAT's, in the fastest implementation.
    implementation: of the heavy operations.

  Returns:
    [N, H * up / down, W * up / down, O].

  Raises:
    ValueError: for another combination of kernel size and resampling.
  """
  return checkpoint_name(_resample_conv(x, kernel, up, down, fir, implementation), CONVOLUTION)


def _resample_conv(x: jax.Array, kernel: jax.Array, up: int, down: int, fir: np.ndarray | None,
                   implementation: Implementation) -> jax.Array:
  size = kernel.shape[0]
  if (up, down) == (1, 1):
    return convolution.convolve(x, kernel, (size // 2, size // 2), implementation)
  if size not in (1, 3) or (up, down) not in ((2, 1), (1, 2)):
    raise ValueError(f'no resampling convolution for kernel {size}, up {up}, down {down}')
  if up == 2:
    return _upsample_conv(x, kernel, fir, implementation)
  return _downsample_conv(x, kernel, fir, implementation)
