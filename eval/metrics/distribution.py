"""Distances between two sets of features, in float64 on the host.

Pure functions of `real` [n, d] and `fake` [m, d]; `eval.metrics.distances` adds sizes, intervals
and warnings. All raise `UserError` for sets that are not two-dimensional, have other
dimensions than each other, fewer than two rows, or values that are not finite.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple
import warnings

from absl import logging
import numpy as np
import scipy.linalg
from sklearn import exceptions, svm

from mat_jax.errors import UserError

_BLOCK = 2048  # rows converted and multiplied at a time: 32 MiB of kernel values
_LARGEST = float(np.finfo(np.float32).max)  # sixth powers of it still fit into float64
_SHOWN_ROWS = 5
CMMD_SCALE = 1000.0
_CMMD_WIDTH = 10.0

Kernel = Callable[[np.ndarray], np.ndarray]  # of inner products, element by element


class Moments(NamedTuple):
  """Mean and covariance of features.

  Attributes:
    mean: [d].
    factor: [r, d] with r <= min(n, d); `factor.T @ factor` is the covariance.
  """

  mean: np.ndarray
  factor: np.ndarray


class Scores(NamedTuple):
  """Signed distances from the hyperplane of a linear SVM, times the norm of its weights.

  Attributes:
    real: [n], positive where a real image is taken for real.
    fake: [n], positive where a fake one is.
    converged: whether the solver reached its tolerance.
  """

  real: np.ndarray
  fake: np.ndarray
  converged: bool


class IDS(NamedTuple):
  """Paired and unpaired inception discriminative score, in [0, 1], higher is better."""

  p_ids: float
  u_ids: float


def check(real: np.ndarray, fake: np.ndarray, names: tuple[str, str] = ('real', 'fake')
          ) -> tuple[np.ndarray, np.ndarray]:
  """Returns both sets as arrays.

  Args:
    real: [n, d].
    fake: [m, d].
    names: what messages call them.

  Raises:
    UserError: they cannot be compared; see the module.
  """
  real, fake = np.asarray(real), np.asarray(fake)
  for name, x in zip(names, (real, fake), strict=True):
    if x.ndim != 2 or not x.shape[1]:
      raise UserError(f'the {name} features have to be [images, features], found the shape '
                      f'{list(x.shape)}')
    if len(x) < 2:
      raise UserError(f'a distance between sets of images needs at least 2 {name} images, '
                      f'found {len(x)}')
    # Negated, so that NaN is caught.
    bad = np.flatnonzero(np.concatenate(
        [~(np.abs(np.asarray(x[rows], np.float64)) <= _LARGEST).all(1) for rows in blocks(len(x))]))
    if bad.size:
      rows = ', '.join(map(str, bad[:_SHOWN_ROWS])) + (', ...' if bad.size > _SHOWN_ROWS else '')
      raise UserError(f'{bad.size:,} of {len(x):,} rows of the {name} features are NaN or infinite '
                      f'(rows {rows}); leave these images out or check the weights')
  if real.shape[1] != fake.shape[1]:
    raise UserError(f'the {names[0]} features have {real.shape[1]} dimensions and the {names[1]} '
                    f'ones {fake.shape[1]}; take both from one network')
  return real, fake


def frechet_distance(real: np.ndarray, fake: np.ndarray, ddof: int = 1) -> float:
  """Frechet distance of the Gaussians with the sets' means and covariances.

  Heusel et al. 2017 (arXiv 1706.08500), equation 6: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2).
  With C1 = A'A and C2 = B'B the trace of the root is the sum of the singular values of AB',
  even where covariances are singular.

  Args:
    real: [n, d].
    fake: [m, d].
    ddof: covariances are divided by n - ddof: 1 as most implementations do, 0 as MAT's.

  Returns:
    0 or more. Biased upwards, in proportion to 1 / min(n, m) for large sets.
  """
  real, fake = check(real, fake)
  return frechet_from_moments(moments(real, ddof), moments(fake, ddof))


def frechet_from_moments(real: Moments, fake: Moments) -> float:
  """The same of sets whose moments are known."""
  singular = np.linalg.svd(real.factor @ fake.factor.T, compute_uv=False)
  distance = (np.sum((real.mean - fake.mean)**2) + np.sum(real.factor**2)
              + np.sum(fake.factor**2) - 2 * np.sum(singular))
  return max(0.0, float(distance))  # rounding alone takes it below


def moments(x: np.ndarray, ddof: int = 1) -> Moments:
  """Mean and covariance of features [n, d]."""
  n, d = x.shape
  mean = sum(np.sum(x[rows], 0, dtype=np.float64) for rows in blocks(n)) / n
  if n <= d:
    return Moments(mean, (np.asarray(x, np.float64) - mean) / np.sqrt(n - ddof))
  scatter = np.zeros((d, d))
  for rows in blocks(n):
    centred = np.asarray(x[rows], np.float64) - mean
    scatter += centred.T @ centred
  return Moments(mean, _factor(scatter / (n - ddof)))


def _factor(covariance: np.ndarray) -> np.ndarray:
  """Pivoted Cholesky: unlike the plain one it takes singular covariances."""
  tolerance = np.finfo(np.float64).eps * covariance.diagonal().max()
  upper, pivots, rank, _ = scipy.linalg.lapack.dpstrf(covariance, tol=tolerance)
  factor = np.empty_like(covariance)
  factor[:, pivots - 1] = np.triu(upper)
  return factor[:rank]


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> float:
  """Kernel distance (KID): MMD^2 of all samples with the kernel (x.y / d + 1)^3.

  Binkowski et al. 2018 (arXiv 1801.01401), with the unbiased estimate of Gretton et al. 2012
  (JMLR 13), equation 3.

  Args:
    real: [n, d].
    fake: [m, d].

  Returns:
    Unbiased if the sets are independent, hence below 0 at times when they are alike.
  """
  real, fake = check(real, fake)
  n, m, kernel = len(real), len(fake), polynomial_kernel(real.shape[1])
  within = [(kernel_sum(kernel, x, x) - kernel_rows(kernel, x, x).sum()) / (len(x) * (len(x) - 1))
            for x in (real, fake)]
  return float(sum(within) - 2 * kernel_sum(kernel, real, fake) / (n * m))


def kernel_distance_subsets(real: np.ndarray, fake: np.ndarray, subsets: int = 100,
                            subset_size: int = 1000, seed: int = 0) -> tuple[float, float]:
  """Mean and standard deviation of the kernel distance over random subsets.

  This is how KID is usually printed. The deviation is that of `subset_size` samples, not of
  the mean.

  Args:
    real: [n, d].
    fake: [m, d].
    subsets: their number.
    subset_size: rows of each set, sampled without replacement; all of them where there are fewer.
    seed: of the subsets.
  """
  real, fake = check(real, fake)
  rng = np.random.default_rng(seed)
  size = min(subset_size, len(real), len(fake))
  found = [kernel_distance(*(x[rng.choice(len(x), size, replace=False)] for x in (real, fake)))
           for _ in range(subsets)]
  return float(np.mean(found)), float(np.std(found))


def cmmd(real: np.ndarray, fake: np.ndarray) -> float:
  """CMMD of CLIP features: 1000 MMD^2 with a Gaussian kernel of width 10 on unit vectors.

  Jayasumana et al. 2024 (arXiv 2401.09603), with the biased estimate of Gretton et al. 2012,
  equation 5, as published.

  Args:
    real: [n, d], of any norm but 0.
    fake: [m, d].

  Returns:
    0 or more.

  Raises:
    UserError: a row is 0.
  """
  real, fake = (unit_rows(x) for x in check(real, fake))
  sums = [kernel_sum(gaussian_kernel, x, y) / (len(x) * len(y))
          for x, y in ((real, real), (fake, fake), (real, fake))]
  return CMMD_SCALE * max(0.0, float(sums[0] + sums[1] - 2 * sums[2]))


def unit_rows(x: np.ndarray) -> np.ndarray:
  """Rows divided by their norms, float64.

  Raises:
    UserError: a row is 0.
  """
  x = np.asarray(x, np.float64)
  norms = np.linalg.norm(x, axis=1, keepdims=True)
  if zero := np.count_nonzero(norms == 0):
    raise UserError(f'{zero:,} of {len(x):,} rows of the features are 0 and have no direction; '
                    'leave these images out or check the weights')
  return x / norms


def polynomial_kernel(dimension: int) -> Kernel:
  """The kernel of `kernel_distance`."""
  def kernel(products: np.ndarray) -> np.ndarray:
    base = products / dimension + 1.0
    return base * base * base  # many times faster than **3

  return kernel


def gaussian_kernel(products: np.ndarray) -> np.ndarray:
  """The kernel of `cmmd`: exp(-|x - y|^2 / (2 * 10^2)), |x - y|^2 = 2 - 2 x.y of unit vectors."""
  return np.exp((products - 1.0) / _CMMD_WIDTH**2)


def kernel_sum(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> float:
  """Sum of the kernel over all pairs of rows; half the work where `x is y`."""
  return kernel_forms(kernel, x, y, np.ones((len(x), 1)), np.ones((len(y), 1)))[0]


def kernel_forms(kernel: Kernel, x: np.ndarray, y: np.ndarray, u: np.ndarray,
                 v: np.ndarray) -> np.ndarray:
  """Weighted sums of a kernel, without ever holding its matrix.

  Args:
    kernel: of inner products.
    x: [n, d].
    y: [m, d]; half the work is saved where `x is y`, and `u` has to be `v` then.
    u: float64 [n, b], weights.
    v: float64 [m, b].

  Returns:
    [b], sum over i and j of u[i] v[j] kernel(x_i.y_j).
  """
  total = np.zeros(u.shape[1])
  for rows in blocks(len(x)):
    left = np.asarray(x[rows], np.float64)
    for columns in blocks(len(y), rows.start if x is y else 0):
      diagonal = x is y and columns == rows
      # A matrix times its own transpose takes half the time.
      right = left if diagonal else np.asarray(y[columns], np.float64)
      sums = np.einsum('ib,ib->b', u[rows], kernel(left @ right.T) @ v[columns])
      total += 2 * sums if x is y and not diagonal else sums
  return total


def kernel_rows(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """The kernel of each row of `x` [n, d] and the same row of `y`, [n]."""
  return np.concatenate([
      kernel(np.einsum('ij,ij->i', *(np.asarray(z[rows], np.float64) for z in (x, y))))
      for rows in blocks(len(x))])


def ids(real: np.ndarray, fake: np.ndarray) -> IDS:
  """Paired and unpaired inception discriminative score.

  Zhao et al. 2021 (CoModGAN, arXiv 2103.10428), section 4: a linear SVM learns to tell real
  from fake and is scored on the very samples that it learnt from. U-IDS is its error rate,
  P-IDS the share of pairs whose fake scores above its real; ties do not count. Both are 0
  where it separates the sets, as a plane can with fewer than about d pairs (Cover 1965).

  Args:
    real: [n, d].
    fake: [n, d]; row i is the result for real image i.

  Raises:
    UserError: unequal numbers.
  """
  return ids_from_scores(svm_scores(real, fake))


def ids_from_scores(scores: Scores) -> IDS:
  """The same of an SVM already fitted."""
  right = np.concatenate([scores.real > 0, scores.fake <= 0])
  return IDS(float(np.mean(scores.fake > scores.real)), float(1 - np.mean(right)))


def svm_scores(real: np.ndarray, fake: np.ndarray) -> Scores:
  """Fits the linear SVM of `ids`, with the settings and unscaled features as published.

  Raises:
    UserError: unequal numbers.
  """
  real, fake = check(real, fake)
  if len(real) != len(fake):
    raise UserError(f'P-IDS and U-IDS compare pairs, found {len(real):,} real and {len(fake):,} '
                    'fake images')
  union = np.concatenate([real, fake]).astype(np.float64)
  model = svm.LinearSVC(dual=False)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    model.fit(union, np.repeat([1, 0], len(real)))
  converged = int(model.n_iter_) < model.max_iter
  if not converged:
    logging.warning('The SVM of P-IDS and U-IDS stopped after %d iterations before it reached its '
                    'tolerance; both are approximate.', model.max_iter)
  scores = model.decision_function(union)
  return Scores(scores[:len(real)], scores[len(real):], converged)


def blocks(size: int, start: int = 0) -> Iterator[slice]:
  for begin in range(start, size, _BLOCK):
    yield slice(begin, min(begin + _BLOCK, size))
