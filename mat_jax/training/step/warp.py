"""Affine warp of images with little aliasing (ADA, arXiv 2006.06676, appendix B).

Images are upsampled 2x by the low-pass filter of the sym6 wavelet, read at the
transformed positions bilinearly, and downsampled by the adjoint of the same
filter. The wavelet is orthonormal, hence translation by whole pixels is exact.
Beyond its borders an image continues mirrored about the centres of its outermost
pixels; the filter, being asymmetric, errs there by its finest details.

Every operation works on one image at a time and is linear in it, so that
batches can be sharded and gradients of any order exist.
"""

from collections.abc import Sequence
import functools
import math
from typing import cast

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Decomposition low-pass filter of sym6, the least asymmetric wavelet of Daubechies with
# six vanishing moments ("Ten Lectures on Wavelets", 1992, table 6.3): sum sqrt(2), norm 1.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148)

_TAPS = tuple(float(tap) for tap in np.array(SYM6) / np.sum(SYM6))
# Entry i of a doubled axis gets tap i - 2j + _ORIGIN of pixel j. As the filter is not
# symmetric, it lies at the pixel position (i - _OFFSET) / 2: the filter's centroid, for which
# linear ramps stay in place.
_ORIGIN = 5
_OFFSET = float(np.dot(np.arange(len(SYM6)), _TAPS)) - _ORIGIN
# Entries of a doubled axis that downsampling reads before the first pixel and in all beyond 2W.
_BEFORE, _EXTRA = 5, 10


class Geometry(flax.struct.PyTreeNode):
  """Parameters of the geometric transforms of N images, in order of application.

  Attributes:
    flip: float32 [N], -1 mirrors left and right, 1 does not.
    quarter_turns: int32 [N] in 0..3, counterclockwise.
    translation: float32 [N, 2], whole pixels right and down.
    scale: float32 [N], factor on both axes.
    pre_rotation: float32 [N], radians counterclockwise.
    aspect: float32 [N], factor on x and divisor of y.
    post_rotation: float32 [N], radians counterclockwise.
    shift: float32 [N, 2], pixels right and down.
  """

  flip: jax.Array
  quarter_turns: jax.Array
  translation: jax.Array
  scale: jax.Array
  pre_rotation: jax.Array
  aspect: jax.Array
  post_rotation: jax.Array
  shift: jax.Array

  @classmethod
  def neutral(cls, batch_size: int) -> 'Geometry':
    """The parameters that leave `batch_size` images in place."""
    zeros, ones = jnp.zeros(batch_size), jnp.ones(batch_size)
    pairs = jnp.zeros((batch_size, 2))
    return cls(
        flip=ones, quarter_turns=jnp.zeros(batch_size, jnp.int32), translation=pairs, scale=ones,
        pre_rotation=zeros, aspect=ones, post_rotation=zeros, shift=pairs)


def _matrix(*rows: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _scaling(x: jax.Array, y: jax.Array) -> jax.Array:
  zero, one = jnp.zeros_like(x), jnp.ones_like(x)
  return _matrix((x, zero, zero), (zero, y, zero), (zero, zero, one))


def _rotation(cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Counterclockwise as seen, where y points down."""
  zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
  return _matrix((cos, sin, zero), (-sin, cos, zero), (zero, zero, one))


def _translation(offset: jax.Array) -> jax.Array:
  x, y = offset[:, 0], offset[:, 1]
  zero, one = jnp.zeros_like(x), jnp.ones_like(x)
  return _matrix((one, zero, x), (zero, one, y), (zero, zero, one))


def inverse_matrix(geometry: Geometry) -> jax.Array:
  """The inverse of all transforms of `geometry`, one after the other.

  Args:
    geometry: parameters of N images.

  Returns:
    float32 [N, 3, 3], to be used by `warp`.
  """
  g = geometry
  quarters = g.quarter_turns * (math.pi / 2)
  inverses = (
      _scaling(g.flip, jnp.ones_like(g.flip)),
      # Rounded, so that pixels fall on pixels.
      _rotation(jnp.round(jnp.cos(quarters)), -jnp.round(jnp.sin(quarters))),
      _translation(-g.translation),
      _scaling(1 / g.scale, 1 / g.scale),
      _rotation(jnp.cos(g.pre_rotation), -jnp.sin(g.pre_rotation)),
      _scaling(1 / g.aspect, g.aspect),
      _rotation(jnp.cos(g.post_rotation), -jnp.sin(g.post_rotation)),
      _translation(-g.shift))
  return functools.reduce(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST), inverses)


def _shifted_sum(x: jax.Array, taps: Sequence[float], axis: int) -> jax.Array:
  """Correlation of an axis with `taps`, without padding."""
  size = x.shape[axis] - len(taps) + 1
  return cast(jax.Array, sum(tap * lax.slice_in_dim(x, start, start + size, axis=axis)
                             for start, tap in enumerate(taps)))


def _upsample_axis(x: jax.Array, axis: int) -> jax.Array:
  """Doubles an axis: odd taps make its even entries, even taps its odd ones."""
  pads = [(0, 0)] * x.ndim
  pads[axis] = (3, 3)
  x = jnp.pad(x, pads, mode='reflect')
  size = x.shape[axis]
  even, odd = (
      _shifted_sum(lax.slice_in_dim(x, start, start + size - 1, axis=axis),
                   [2.0 * tap for tap in _TAPS[1 - start::2][::-1]], axis)
      for start in (0, 1))
  shape = list(even.shape)
  shape[axis] *= 2
  return jnp.stack([even, odd], axis + 1).reshape(shape)


def _downsample_axis(x: jax.Array, axis: int) -> jax.Array:
  """The adjoint of `_upsample_axis` but for the borders, halved so that it keeps constants."""
  shape = list(x.shape)
  shape[axis:axis + 1] = [shape[axis] // 2, 2]
  pairs = x.reshape(shape)
  return cast(jax.Array, sum(
      _shifted_sum(lax.index_in_dim(pairs, phase, axis + 1, keepdims=False), _TAPS[phase::2], axis)
      for phase in (0, 1)))


def _reflect(position: jax.Array, size: int) -> jax.Array:
  """Brings positions into [0, size - 1] by mirroring at both ends."""
  last = size - 1
  return last - jnp.abs(jnp.mod(position, 2 * last) - last)


def _source_positions(inverse: jax.Array, height: int,
                      width: int) -> tuple[jax.Array, jax.Array]:
  """Sampling positions in the doubled input of each entry of the doubled output.

  Args:
    inverse: [N, 3, 3], of `warp`.
    height: pixels H of the image.
    width: pixels W.

  Returns:
    Rows and columns, each [N, 2H + 10, 2W + 10], in [0, 2H - 1) and [0, 2W - 1).
  """
  def centered(size: int) -> jax.Array:
    return (jnp.arange(2 * size + _EXTRA) - _BEFORE - _OFFSET) / 2 - (size - 1) / 2

  y, x = centered(height)[:, None], centered(width)[None, :]
  source_x, source_y = (
      inverse[:, i, 0, None, None] * x + inverse[:, i, 1, None, None] * y
      + inverse[:, i, 2, None, None] for i in (0, 1))
  return (2 * _reflect(source_y + (height - 1) / 2, height) + _OFFSET,
          2 * _reflect(source_x + (width - 1) / 2, width) + _OFFSET)


def _sample(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Bilinear sampling of [H, W, C] at positions [P, Q] within it: [P, Q, C]."""
  height, width, channels = image.shape
  # Positions end between the last two entries of an axis, so that all corners exist.
  top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
  down, right = (rows - top)[..., None], (columns - left)[..., None]
  pixels = image.reshape(height * width, channels)

  def corner(row: int, column: int) -> jax.Array:
    index = (top + row) * width + left + column
    return pixels.at[index].get(mode='promise_in_bounds')

  return ((1 - down) * ((1 - right) * corner(0, 0) + right * corner(0, 1))
          + down * ((1 - right) * corner(1, 0) + right * corner(1, 1)))


def warp(images: jax.Array, inverse: jax.Array) -> jax.Array:
  """Moves every image by its own affine transform.

  Args:
    images: float32 [N, H, W, C], H and W at least 4.
    inverse: float32 [N, 3, 3], takes an output position (x, y, 1) to the input
      position that is shown there. Positions count pixels to the right and
      down from the centre of the image.

  Returns:
    [N, H, W, C]; a constant image stays constant.
  """
  _, height, width, _ = images.shape
  rows, columns = _source_positions(inverse, height, width)
  doubled = _upsample_axis(_upsample_axis(images, 1), 2)
  moved = jax.vmap(_sample)(doubled, rows, columns)
  return _downsample_axis(_downsample_axis(moved, 1), 2)
