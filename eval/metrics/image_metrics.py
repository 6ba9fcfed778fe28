"""PSNR, SSIM and L1 of uint8 images, whole or over the hole alone.

Pure JAX functions: they can be called on NumPy or JAX arrays, singly or in
batches, and inside `jax.jit`. The arithmetic is float32 and int32, arranged so
that the results agree with float64 to 1e-6 (PSNR, L1) and 1e-4 (SSIM).

`hole` is 1 where the pixel was in the hole. The networks' mask has the opposite
sense (1 keeps): pass `1 - mask`.
"""

import itertools
import math

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

# Windows of a block of SSIM, and how many blocks an axis has at most: each costs compile time.
_BLOCK = 56
_MAX_BLOCKS = 8


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
  batch = a.shape[:-3]
  # Sizes written out, because -1 cannot be told from them in an empty batch.
  pairs = jax.tree.map(lambda x: x.reshape(math.prod(batch), *x.shape[-3:]), (a, b, hole))
  # One image at a time, the moments stay in a CPU's cache, which is 2x faster; elsewhere,
  # and where a batch is sharded over devices, the whole batch is better.
  similarity = jax.lax.platform_dependent(
      pairs, cpu=lambda pairs: jax.lax.map(_ssim_of_pair, pairs), default=jax.vmap(_ssim_of_pair))
  return similarity.reshape(batch)


def _ssim_of_pair(pair: tuple[jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
  """SSIM of two uint8 [H, W, 3] and perhaps a hole [H, W, 1]."""
  a, b, hole = pair
  similarity = _ssim_map(a, b)
  if hole is None:
    return _mean_by_rows(similarity)
  edge = SSIM_WINDOW // 2
  centres = _in_hole(hole)[edge:-edge, edge:-edge].astype(jnp.float32)
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
  """Mean over [H, W, C]; per row first, so that no long float32 sum arises."""
  return values.mean((1, 2)).mean(0)


def _ssim_map(a: Array, b: Array) -> jax.Array:
  """SSIM of every window: uint8 [H, W, 3] to float32 [H-10, W-10, 3].

  E[x^2] - E[x]^2 would cancel in float32. The moments are therefore taken of
  differences from a pixel nearby, first along the columns and then along the
  rows by the law of total variance: the variance of a window is the mean of its
  lines' variances plus the variance of its lines' means.
  """
  # [H, 3, W], because CPUs vectorise a long last axis. XLA transposes slower than it stacks.
  a, b = (jnp.stack([x[..., c].astype(jnp.float32) for c in range(3)], axis=1) for x in (a, b))
  zero = jnp.zeros_like(a)
  moments = _line_moments((a, b, zero, zero), axis=0)
  a, b, variance, covariance = _line_moments(moments, axis=2)
  c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
  similarity = (2 * a * b + c1) / (a * a + b * b + c1) * (2 * covariance + c2) / (variance + c2)
  return similarity.transpose(0, 2, 1)


def _line_moments(moments: tuple[jax.Array, ...], axis: int) -> tuple[jax.Array, ...]:
  """Combines the moments of 11 neighbours on an axis with Gaussian weights.

  The weighted sums are matmuls with a band matrix. Splitting the axis into blocks keeps the matrix
  small, and the values close to the middle pixel of a block, which is subtracted.

  Args:
    moments: mean of a, mean of b, var(a) + var(b), cov(a, b), each [H, 3, W].
    axis: 0 or 2.

  Returns:
    The same of the windows, shorter by 10 on the axis.
  """
  length = moments[0].shape[axis] - SSIM_WINDOW + 1
  blocks = min(max(length // _BLOCK, 1), _MAX_BLOCKS)
  edges = [i * length // blocks for i in range(blocks + 1)]
  parts = []
  for start, stop in itertools.pairwise(edges):
    a, b, variance, covariance = (
        jax.lax.slice_in_dim(x, start, stop + SSIM_WINDOW - 1, axis=axis) for x in moments)
    middle = a.shape[axis] // 2
    middle_a, middle_b = (jax.lax.slice_in_dim(x, middle, middle + 1, axis=axis) for x in (a, b))
    da, db = a - middle_a, b - middle_b
    terms = jnp.stack((da, db, variance + da * da + db * db, covariance + da * db), axis=1)
    sums = jnp.einsum('hmcw,hv->vmcw' if axis == 0 else 'hmcw,wv->hmcv', terms,
                      _gaussian_band(stop - start), precision=jax.lax.Precision.HIGHEST)
    da, db, square, product = (sums[:, i] for i in range(4))
    parts.append((da + middle_a, db + middle_b, square - da * da - db * db, product - da * db))
  return tuple(jnp.concatenate(part, axis) for part in zip(*parts, strict=True))


def _gaussian_band(windows: int) -> np.ndarray:
  """float32 [windows + 10, windows]: the weights of the pixels of each window."""
  offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
  gaussian = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
  position = np.arange(windows)
  band = np.zeros((windows + SSIM_WINDOW - 1, windows), np.float32)
  for k, weight in enumerate(gaussian / gaussian.sum()):
    band[position + k, position] = weight
  return band
