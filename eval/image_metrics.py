"""PSNR, SSIM and L1 of uint8 images, whole or over the hole alone.

Pure JAX functions: they can be called on NumPy or JAX arrays, singly or in
batches, and inside `jax.jit`. The arithmetic is float32 and int32, arranged so
that the results agree with float64 to 1e-6 (PSNR, L1) and 1e-4 (SSIM).

`hole` is 1 where the pixel was in the hole. The networks' mask has the opposite
sense (1 keeps): pass `1 - mask`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mat_jax.errors import UserError

Array = jax.Array | np.ndarray

PEAK = 255
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
# A row's sum of squared differences has to fit in int32.
MAX_WIDTH = (2**31 - 1) // (3 * PEAK**2)
MAX_HEIGHT = 2**15 - 1


class Summary(NamedTuple):
  """Mean of a metric over images, with a bootstrap 95 % interval.

  Attributes:
    mean: mean of the finite values; NaN if there is none.
    low: 2.5 % quantile of the bootstrapped means.
    high: 97.5 % quantile of the bootstrapped means.
    n: number of finite values.
    infinite: number of infinite values left out (PSNR of equal images).
    undefined: number of NaN values left out (no pixel in the hole).
  """

  mean: float
  low: float
  high: float
  n: int
  infinite: int
  undefined: int


def to_uint8(x: Array) -> jax.Array:
  """Rounds images in [-1, 1] (any float type, any shape) to uint8 in [0, 255]."""
  x = jnp.asarray(x, jnp.float32)
  return jnp.clip(jnp.rint((x + 1) * 127.5), 0, PEAK).astype(jnp.uint8)


def psnr(a: Array, b: Array, hole: Array | None = None) -> jax.Array:
  """Peak signal-to-noise ratio per image, in dB, with peak 255.

  Args:
    a: uint8 [..., H, W, 3].
    b: uint8 [..., H, W, 3].
    hole: float or bool [..., H, W, 1]; where given, only the pixels where it is
      1 count.

  Returns:
    float32 [...]; inf where the images are equal, NaN where the hole is empty.

  Raises:
    UserError: for another type or for shapes that do not fit.
  """
  _check(a, b, hole)
  return _psnr(a, b, hole)


def l1(a: Array, b: Array, hole: Array | None = None) -> jax.Array:
  """Mean absolute difference per image, in units of the peak: 0 to 1.

  Args:
    a: uint8 [..., H, W, 3].
    b: uint8 [..., H, W, 3].
    hole: float or bool [..., H, W, 1]; where given, only the pixels where it is
      1 count.

  Returns:
    float32 [...]; NaN where the hole is empty.

  Raises:
    UserError: for another type or for shapes that do not fit.
  """
  _check(a, b, hole)
  return _l1(a, b, hole)


def ssim(a: Array, b: Array, hole: Array | None = None) -> jax.Array:
  """Structural similarity per image (Wang et al. 2004, equation 13).

  Gaussian window of 11x11 pixels and sigma 1.5, only where it lies inside the
  image, biased moments, C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2, averaged over
  windows and RGB channels.

  Args:
    a: uint8 [..., H, W, 3], H and W at least 11.
    b: uint8 [..., H, W, 3].
    hole: float or bool [..., H, W, 1]; where given, the average is over the
      windows whose centre is a pixel where it is 1. Such a window also sees
      pixels outside the hole, and pixels within 5 of the border are no centre.

  Returns:
    float32 [...], at most 1; NaN where no window is centred in the hole.

  Raises:
    UserError: for another type, shapes that do not fit or images below 11x11.
  """
  _check(a, b, hole)
  if min(a.shape[-3:-1]) < SSIM_WINDOW:
    raise UserError(
        f'SSIM needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {a.shape}.')
  return _ssim(a, b, hole)


def mean_and_interval(values: Array, seed: int = 0, samples: int = 2000) -> Summary:
  """Mean over images and its percentile-bootstrap 95 % interval.

  Args:
    values: a metric per image, any shape; infinite and NaN entries are left out
      and counted.
    seed: the interval is a function of the values and of this.
    samples: number of bootstrap resamples.

  Returns:
    A `Summary`.
  """
  values = np.asarray(values, np.float64).ravel()
  infinite, undefined = int(np.isinf(values).sum()), int(np.isnan(values).sum())
  finite = values[np.isfinite(values)]
  if not finite.size:
    return Summary(math.nan, math.nan, math.nan, 0, infinite, undefined)
  rng = np.random.default_rng(seed)
  # One resample at a time: all at once would take gigabytes for Places' validation set.
  means = [finite[rng.integers(finite.size, size=finite.size)].mean() for _ in range(samples)]
  low, high = np.quantile(means, (0.025, 0.975))
  return Summary(
      float(finite.mean()), float(low), float(high), finite.size, infinite, undefined)


def _check(a: Array, b: Array, hole: Array | None) -> None:
  for image in (a, b):
    if image.dtype != np.uint8:
      raise UserError(
          f'image metrics compare uint8 images, got {a.dtype} {a.shape} and {b.dtype} {b.shape}.')
  if a.shape != b.shape or a.ndim < 3 or a.shape[-1] != 3:
    raise UserError(
        f'image metrics compare two [..., H, W, 3] of one shape, got {a.shape} and {b.shape}.')
  if hole is not None and hole.shape != (*a.shape[:-1], 1):
    raise UserError(f'the hole of images {a.shape} is {(*a.shape[:-1], 1)}, got {hole.shape}.')
  if hole is not None and hole.dtype != np.bool_ and not jnp.issubdtype(hole.dtype, jnp.floating):
    raise UserError(f'the hole is float or bool, got {hole.dtype} {hole.shape}.')
  if a.shape[-2] > MAX_WIDTH or a.shape[-3] > MAX_HEIGHT:
    raise UserError(f'image metrics reach {MAX_HEIGHT}x{MAX_WIDTH} pixels, got {a.shape}.')


@jax.jit
def _psnr(a: Array, b: Array, hole: Array | None) -> jax.Array:
  mean_square = _pixel_mean(jnp.square(_difference(a, b)), hole)
  return 10 * jnp.log10(PEAK**2 / mean_square)


@jax.jit
def _l1(a: Array, b: Array, hole: Array | None) -> jax.Array:
  return _pixel_mean(jnp.abs(_difference(a, b)), hole) / PEAK


@jax.jit
def _ssim(a: Array, b: Array, hole: Array | None) -> jax.Array:
  similarity = _ssim_map(a, b)
  if hole is None:
    return _mean_by_rows(similarity)
  edge = SSIM_WINDOW // 2
  centres = _in_hole(hole)[..., edge:-edge, edge:-edge, :].astype(jnp.float32)
  return _mean_by_rows(similarity * centres) / _mean_by_rows(centres)


def _difference(a: Array, b: Array) -> jax.Array:
  return jnp.asarray(a, jnp.int32) - jnp.asarray(b, jnp.int32)


def _in_hole(hole: Array) -> jax.Array:
  return jnp.asarray(hole) > 0.5


def _pixel_mean(values: jax.Array, hole: Array | None) -> jax.Array:
  """Mean of int32 [..., H, W, 3] per image, 0 <= values <= 255^2."""
  height, width, channels = values.shape[-3:]
  if hole is None:
    return _exact_sum(values) / (height * width * channels)
  inside = _in_hole(hole)
  pixels = jnp.sum(inside, axis=(-3, -2, -1), dtype=jnp.int32)
  return _exact_sum(jnp.where(inside, values, 0)) / (channels * pixels.astype(jnp.float32))


def _exact_sum(values: jax.Array) -> jax.Array:
  """Sum over [..., H, W, 3] as float32 with one rounding.

  The sum of the squares of a 256x256 image needs more than 32 bits, and adding
  them in float32 loses digits: so the rows' sums, which fit in int32, are added
  as two halves of 16 bits.
  """
  rows = jnp.sum(values, axis=(-2, -1), dtype=jnp.int32)
  high = jnp.sum(rows >> 16, axis=-1, dtype=jnp.int32).astype(jnp.float32)
  low = jnp.sum(rows & 0xFFFF, axis=-1, dtype=jnp.int32).astype(jnp.float32)
  return high * 2.0**16 + low


def _mean_by_rows(values: jax.Array) -> jax.Array:
  """Mean over [..., H, W, C]; per row first, so that no long float32 sum arises."""
  return values.mean(axis=(-2, -1)).mean(axis=-1)


def _ssim_map(a: Array, b: Array) -> jax.Array:
  """SSIM of every window: uint8 [..., H, W, 3] to float32 [..., H-10, W-10, 3].

  E[x^2] - E[x]^2 would cancel in float32. The moments are therefore taken of
  differences from the pixel in the window's middle, first along the rows and
  then along the columns by the law of total variance: the variance of a window
  is the mean of its lines' variances plus the variance of its lines' means.
  """
  *batch, height, width, channels = a.shape
  # Channels interleaved along the row: the long last axis is what CPUs vectorise.
  a, b = (jnp.asarray(x, jnp.float32).reshape(*batch, height, width * channels) for x in (a, b))
  zero = jnp.zeros_like(a)
  moments = _line_moments((a, b, zero, zero), axis=a.ndim - 1, stride=channels)
  a, b, variance, covariance = _line_moments(moments, axis=a.ndim - 2, stride=1)
  c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
  similarity = (2 * a * b + c1) / (a * a + b * b + c1) * (2 * covariance + c2) / (variance + c2)
  return similarity.reshape(*batch, height - SSIM_WINDOW + 1, -1, channels)


def _line_moments(moments: tuple[jax.Array, ...], axis: int, stride: int) -> tuple[jax.Array, ...]:
  """Gathers the moments of 11 neighbours, `stride` apart on `axis`, with Gaussian weights.

  Args:
    moments: mean of a, mean of b, var(a) + var(b), cov(a, b), of equal shapes.
    axis: axis, not negative.
    stride: distance between neighbours.

  Returns:
    The same of the windows, shorter by 10 strides on the axis.
  """
  offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
  gaussian = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
  weights = jnp.asarray(gaussian / gaussian.sum(), jnp.float32)
  length = moments[0].shape[axis] - stride * (SSIM_WINDOW - 1)

  def tap(k):
    return [jax.lax.dynamic_slice_in_dim(x, k * stride, length, axis) for x in moments]

  middle_a, middle_b, *_ = tap(SSIM_WINDOW // 2)

  def add(k, sums):
    tap_a, tap_b, variance, covariance = tap(k)
    da, db = tap_a - middle_a, tap_b - middle_b
    terms = (da, db, variance + da * da + db * db, covariance + da * db)
    return tuple(s + weights[k] * term for s, term in zip(sums, terms, strict=True))

  # A loop, because XLA takes seconds to compile the unrolled sums and recomputes shared terms.
  zero = jnp.zeros_like(middle_a)
  da, db, square, product = jax.lax.fori_loop(0, SSIM_WINDOW, add, (zero,) * 4)
  return da + middle_a, db + middle_b, square - da * da - db * db, product - da * db
