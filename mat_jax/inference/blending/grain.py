"""Grain of the kept surroundings for a fill that is smoother.

A network fills without film grain, sensor noise or canvas: the hole then shows as a smooth patch.
What the fill lacks of the fine noise around it is added, and nothing is ever removed.
"""

import numpy as np
from scipy import fft, ndimage

from mat_jax.inference.blending.averages import average_over
from mat_jax.inference.blending.membrane import membrane

# Grain is what remains of a picture without its average over a Gaussian of this many pixels.
_SIGMA = 3.0
# Side of the windows in which its strength is estimated, in pixels.
_WINDOW = 15
# An average over part of its window is trusted from this share on.
_MIN_COVERAGE = 0.75
# Grain is everywhere, texture is not: so no more counts as grain than the smoothest windows show,
# this share of all. Too little grain is hardly seen; hair or lace taken for grain would make a
# face dirty.
_SMOOTHEST = 0.15
# What is so many standard deviations away from the local average is an edge or a texture.
_OUTLIER = 3.0
# Fewer pixels tell nothing of grain.
_MIN_PIXELS = 64


def match_grain(fill: np.ndarray, truth: np.ndarray, ring: np.ndarray, hole: np.ndarray,
                seed: int) -> np.ndarray:
  """Adds the grain of a ring to a hole, as far as the fill lacks it.

  Its strength is estimated per channel where ring and fill are smoothest. The noise has the
  spectrum of the ring's grain and the correlation of its channels: white noise convolved with
  that grain (Galerne, Gousseau & Morel, "Random Phase Textures: Theory and Synthesis", 2011).

  Args:
    fill: float [H, W, 3] of any range, without a step in brightness to the ring; read in the
      hole only.
    truth: float [H, W, 3] of the same range; read on the ring only.
    ring: bool [H, W], kept pixels around the hole; from a width of about 12 pixels on, grain can
      be measured there.
    hole: bool [H, W].
    seed: of the noise.

  Returns:
    float32 [H, W, 3]: the fill with grain in the hole, else as it was; values may leave their
    range.
  """
  result = fill.astype(np.float32)
  ring = ring & ~hole
  picture = np.where(hole[..., None], fill, truth).astype(np.float32)
  average, coverage = average_over(picture, ring | hole, _SIGMA)
  residual = picture - average
  measured = ring & (coverage >= _MIN_COVERAGE)
  if np.count_nonzero(measured) < _MIN_PIXELS or not hole.any():
    return result
  wanted, present = (_grain_variance(residual, pixels) for pixels in (measured, hole))
  noise = _noise(_typical(residual, wanted, measured), seed)
  strength = np.sqrt(np.maximum(wanted - present, 0))
  # `blend` lets the kept grain go on into the hole for as long as grain is correlated. So what is
  # added starts from 0 at the border.
  result[hole] += (strength * (noise - membrane(noise, ring, hole)))[hole]
  return result


def _local_variance(residual: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """Mean square of [H, W, 3] over the chosen pixels of a window, 0 where there are none."""
  share = _window_mean(chosen)[..., None]
  sums = ndimage.uniform_filter(np.where(chosen[..., None], np.square(residual), 0), _WINDOW,
                                axes=(0, 1), mode='constant')
  # The running sums of the filter leave rounding errors where nothing is chosen.
  return np.where(share > 1e-4, np.maximum(sums, 0) / np.maximum(share, 1e-4), 0)


def _window_mean(mask: np.ndarray) -> np.ndarray:
  """Share of a mask [H, W] in windows; beyond the edges it is False."""
  return ndimage.uniform_filter(mask.astype(np.float32), _WINDOW, mode='constant')


def _grain_variance(residual: np.ndarray, pixels: np.ndarray) -> np.ndarray:
  """Variance of the grain of each channel, float32 [3], measured at the given pixels."""
  return np.quantile(_local_variance(residual, pixels)[pixels], _SMOOTHEST, axis=0)


def _typical(residual: np.ndarray, variance: np.ndarray, measured: np.ndarray) -> np.ndarray:
  """Grain without edges and textures, of variance 1, [H, W, 3]; 0 where there is none."""
  squares = np.square(residual)
  usual = (squares <= _OUTLIER**2 * variance).all(axis=-1)
  # With a mean square of twice the variance, most of what is seen is texture.
  usual &= measured & (_local_variance(residual, measured) <= 2 * variance).all(axis=-1)
  return np.where(usual[..., None] & (variance > 0),
                  residual / np.sqrt(np.maximum(variance, 1e-12)), 0)


def _noise(grain: np.ndarray, seed: int) -> np.ndarray:
  """Noise with the spectrum and the channel correlation of grain, and variance 1.

  Args:
    grain: float [H, W, 3], 0 where it was not measured.
    seed: of the noise.

  Returns:
    float32 [H, W, 3]; 0 in a channel without grain.
  """
  height, width, _ = grain.shape
  shape = tuple(fft.next_fast_len(side, real=True) for side in (height, width))
  white = np.random.default_rng(seed).standard_normal((*shape, 1), np.float32)
  scale = np.sqrt(np.square(grain).sum(axis=(0, 1)))
  spectrum = fft.rfft2(white, axes=(0, 1)) * fft.rfft2(grain, shape, axes=(0, 1))
  noise = fft.irfft2(spectrum, shape, axes=(0, 1))[:height, :width]
  return (noise / np.maximum(scale, 1e-12)).astype(np.float32)
