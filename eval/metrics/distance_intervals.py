"""Distances between sets of images with 95 % intervals.

Images, not results, are the resampling unit: a real image is resampled together with all
of its results. A resample contains images several times, and a copy compared with itself would
bias distances upwards; each function says how it avoids that.
"""

from typing import NamedTuple

import numpy as np

from eval.metrics import distribution
from eval.metrics.bootstrap import CONFIDENCE
from eval.metrics.distribution import Kernel

RESAMPLES = 1000
_NORMAL_QUANTILE = 1.96
_SMALLEST_ROOT = 1e-7  # of the largest; the eigenvalues of a square give no more digits


class Estimate(NamedTuple):
  """A metric with its 95 % interval.

  Attributes:
    value: metric.
    low: lower end.
    high: upper end.
  """

  value: float
  low: float
  high: float


class _Term(NamedTuple):
  """One of the three mean kernels that a kernel distance consists of.

  Attributes:
    sums: [b], weighted sums over all pairs of samples, for b weightings of the images.
    left: [N], samples of each image on one side.
    right: [N], on the other side.
    same: [N], sums of those pairs within an image that `sums` includes.
    used: [N], sums of those pairs within an image that the distance includes.
    number: [N], how many these are.
  """

  sums: np.ndarray
  left: np.ndarray
  right: np.ndarray
  same: np.ndarray
  used: np.ndarray
  number: np.ndarray


def kernel_estimate(real: np.ndarray, fake: np.ndarray, image: np.ndarray, kernel: Kernel,
                    unbiased: bool, seed: int = 0) -> tuple[Estimate, float]:
  """Kernel distance with a percentile-bootstrap interval.

  Copies of an image meet the other images only, and pairs within an image keep their share in
  every resample. Where the two distributions are equal the interval is nearly twice too wide,
  as any bootstrap of a degenerate U-statistic.

  Args:
    real: [N, d].
    fake: [n, d].
    image: int [n], the row of `real` that each result belongs to.
    kernel: of inner products.
    unbiased: leave pairs of a sample with itself out, as `distribution.kernel_distance`
      does; otherwise keep them, as `distribution.cmmd` does.
    seed: of the resamples.

  Returns:
    The estimate, and its value without all pairs within an image: these are not independent,
    so that even the distance called unbiased is biased at few images.
  """
  weights = np.concatenate([np.ones((len(real), 1)), _resamples(len(real), seed)], 1)
  terms = _terms(real, fake, image, kernel, unbiased, weights)
  means, between = zip(*(_means(term, weights) for term in terms), strict=True)
  distances, apart = (x[0] + x[1] - 2 * x[2] for x in (means, between))
  return Estimate(float(distances[0]), *_percentiles(distances[1:])), float(apart[0])


def _resamples(images: int, seed: int) -> np.ndarray:
  """float64 [images, RESAMPLES]: how often each image is in each resample."""
  rng = np.random.default_rng(seed)
  return rng.multinomial(images, np.full(images, 1 / images), RESAMPLES).T.astype(np.float64)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
  tail = (1 - CONFIDENCE) / 2
  low, high = np.nanquantile(values, (tail, 1 - tail))
  return float(low), float(high)


def _terms(real: np.ndarray, fake: np.ndarray, image: np.ndarray, kernel: Kernel,
           unbiased: bool, weights: np.ndarray) -> tuple[_Term, _Term, _Term]:
  """Real with real, fake with fake, real with fake."""
  n, repeated = len(real), weights[image]
  ones, none, counts = np.ones(n), np.zeros(n), np.bincount(image, minlength=n)
  itself = distribution.kernel_rows(kernel, real, real)
  itself_fake = np.bincount(image, distribution.kernel_rows(kernel, fake, fake), n)
  siblings = _sibling_sums(fake, image, kernel, n)
  cross = np.bincount(image, distribution.kernel_rows(kernel, real[image], fake), n)
  if unbiased:
    used = (none, none), (siblings, counts * (counts - 1))
  else:
    used = (itself, ones), (siblings + itself_fake, counts**2)
  form = distribution.kernel_forms
  return (_Term(form(kernel, real, real, weights, weights), ones, ones, itself, *used[0]),
          _Term(form(kernel, fake, fake, repeated, repeated), counts, counts,
                siblings + itself_fake, *used[1]),
          _Term(form(kernel, real, fake, weights, repeated), ones, counts, cross, cross, counts))


def _sibling_sums(fake: np.ndarray, image: np.ndarray, kernel: Kernel, images: int) -> np.ndarray:
  """[images], sum of the kernel over ordered pairs of different results of an image."""
  order = np.argsort(image, kind='stable')
  group, sums = image[order], np.zeros(images)
  for distance in range(1, np.bincount(image).max()):
    first = np.flatnonzero(group[distance:] == group[:-distance])
    values = distribution.kernel_rows(kernel, fake[order[first]], fake[order[first + distance]])
    sums += 2 * np.bincount(group[first], values, images)
  return sums


def _means(term: _Term, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """[b], mean of the kernel over the pairs that the distance includes; between images only."""
  squares = (weights**2).T
  pairs = (term.left @ weights) * (term.right @ weights) - squares @ (term.left * term.right)
  # A resample of one image alone has no pairs; NaN takes it out of the quantiles.
  between = np.divide(term.sums - squares @ term.same, pairs,
                      out=np.full(len(pairs), np.nan), where=pairs > 0)
  within = (term.used @ weights) / np.maximum(term.number @ weights, 1)
  share = term.number.sum() / (term.number.sum() + pairs[0])
  return (1 - share) * between + share * within, between


def frechet_estimate(real: np.ndarray, fake: np.ndarray, image: np.ndarray) -> Estimate:
  """Frechet distance +- 1.96 standard deviations, the lower end at least 0.

  The deviation is that of the infinitesimal jackknife (Efron 1982, chapter 6): the bootstrap
  of the distance linearised in the images' weights, in closed form. Resampling itself puts
  copies into the covariances, which biases them and, in simulations with fewer images than
  features, doubles the spread; this one was 0.9 to 1.6 times the true deviation throughout.
  The interval is that of the distance to be expected at this number of images: it says nothing
  about the bias.

  Args:
    real: [N, d].
    fake: [n, d].
    image: int [n], the row of `real` that each result belongs to.
  """
  n, moments = len(real), [distribution.moments(x) for x in (real, fake)]
  value = distribution.frechet_from_moments(*moments)
  of_real, of_fake = _influences((real, fake), moments)
  influence = of_real + np.bincount(image, of_fake, n) * (n / len(fake))
  margin = _NORMAL_QUANTILE * np.sqrt(np.sum(influence**2) / (n * (n - 1)))
  return Estimate(value, max(0.0, float(value - margin)), float(value + margin))


def _influences(sets: tuple[np.ndarray, np.ndarray],
                moments: list[distribution.Moments]) -> list[np.ndarray]:
  """Derivative of the Frechet distance by the weight of each row, minus the mean.

  The derivative of -2 tr (C1 C2)^1/2 by C1 is minus the optimal transport map, which with
  C1 = A'A, C2 = B'B and the singular values AB' = U S V' is B' V S^-1 V' B.
  """
  (mean1, a), (mean2, b) = moments
  product = a @ b.T
  squares, u = np.linalg.eigh(product @ product.T) if len(a) else (np.zeros(0), a)
  singular = np.sqrt(np.maximum(squares, 0))
  kept = singular > _SMALLEST_ROOT * singular.max(initial=0)
  u, singular = u[:, kept], singular[kept]
  roots = ((u / singular**1.5).T @ product @ b, (u / singular**0.5).T @ a)
  found = []
  for x, mean, other, root in zip(sets, (mean1, mean2), (mean2, mean1), roots, strict=True):
    parts = []
    for rows in distribution.blocks(len(x)):
      centred = np.asarray(x[rows], np.float64) - mean
      parts.append(2 * centred @ (mean - other) + np.sum(centred**2, 1)
                   - np.sum((centred @ root.T)**2, 1))
    influence = np.concatenate(parts)
    found.append(influence - influence.mean())
  return found


def mean_interval(values: np.ndarray, image: np.ndarray, seed: int = 0) -> tuple[float, float]:
  """Percentile-bootstrap interval of the mean over results, images being resampled.

  Args:
    values: [n], of each result.
    image: int [n], the image that each belongs to.
    seed: of the resamples.
  """
  _, group = np.unique(image, return_inverse=True)
  weights = _resamples(group.max() + 1, seed)
  return _percentiles((np.bincount(group, values) @ weights) / (np.bincount(group) @ weights))
