"""Means over images with bootstrap intervals, and differences between two systems.

Images, not pairs, are the resampling unit: the masks of an image are averaged first.
"""

import math
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
SAMPLES = 2000


class Summary(NamedTuple):
  """Mean over images, with a bootstrap 95 % interval.

  Attributes:
    mean: mean of the finite values; NaN if there is none.
    low: 2.5 % quantile of the bootstrapped means.
    high: 97.5 % quantile of the bootstrapped means.
    n: number of images with a finite value.
    infinite: number of infinite values left out (PSNR of equal images).
    undefined: number of NaN values left out (no pixel in the hole).
  """

  mean: float
  low: float
  high: float
  n: int
  infinite: int
  undefined: int


def mean_and_interval(values: np.ndarray, seed: int = 0, samples: int = SAMPLES) -> Summary:
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
  low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
  return Summary(
      float(finite.mean()), float(low), float(high), finite.size, infinite, undefined)


def summarize(values: np.ndarray, image: np.ndarray, seed: int = 0) -> Summary:
  """Mean and 95 % interval over images, of values for pairs of image and mask.

  Infinite and undefined pairs are left out and counted.

  Args:
    values: [pairs].
    image: [pairs], which image each is of.
    seed: of the bootstrap.

  Returns:
    A `Summary`; its `infinite` and `undefined` count pairs.
  """
  values = np.asarray(values, np.float64)
  return mean_and_interval(_mean_by_image(values, np.asarray(image)), seed)._replace(
      infinite=int(np.isinf(values).sum()), undefined=int(np.isnan(values).sum()))


def paired_difference(
    ours: np.ndarray, theirs: np.ndarray, image: np.ndarray, seed: int = 0) -> Summary:
  """Mean of `ours - theirs` over images, with its interval.

  The same images and masks are compared, so what makes an image easy or hard for both
  cancels, and the interval is narrower than those of the two means suggest.

  Args:
    ours: [pairs].
    theirs: [pairs], of the same pairs.
    image: [pairs], which image each is of.
    seed: of the bootstrap.

  Returns:
    A `Summary`. Pairs in which either is infinite or undefined are left out and counted.
  """
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  infinite = np.isinf(ours) | np.isinf(theirs)
  usable = np.isfinite(ours) & np.isfinite(theirs)
  difference = np.full(len(ours), np.nan)
  difference[usable] = ours[usable] - theirs[usable]
  return summarize(difference, image, seed)._replace(
      infinite=int(infinite.sum()), undefined=int((~usable & ~infinite).sum()))


def _mean_by_image(values: np.ndarray, image: np.ndarray) -> np.ndarray:
  """Means of the finite values of each image; NaN for images without any."""
  _, index = np.unique(image, return_inverse=True)
  finite = np.isfinite(values)
  size = int(index.max()) + 1 if index.size else 0
  counts = np.bincount(index[finite], minlength=size)
  sums = np.bincount(index[finite], values[finite], minlength=size)
  return np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
