"""Distances between sets of images, with intervals, ceilings and warnings.

A distance of too few images is flagged, and one that cannot be measured is None with the
reason. Bad features raise `UserError`; see `eval.metrics.distribution`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from absl import logging
import numpy as np

from eval.metrics import distance_intervals, distribution, precision_recall
from mat_jax.errors import UserError

_ENOUGH_IMAGES = 10_000
_FEWEST_IMAGES = 5  # fewer have too few different resamples for an interval
_SUBSETS, _SUBSET_SIZE = 100, 1000


class Distance(NamedTuple):
  """A metric of two sets of images.

  Attributes:
    value: None where it cannot be measured; then `note` says why.
    low: lower end of the bootstrap 95 % interval, None without one.
    high: upper end.
    n_real: number of real images.
    n_fake: number of results.
    dimension: of the features.
    ceiling: what real images against other real images score at `ceiling_n`, for P-IDS
      and U-IDS; None without.
    ceiling_n: pairs of the ceiling.
    at_ceiling_n: the value at that number of pairs, where it is below n_fake; else None.
    note: warnings, one or several sentences; '' for none.
  """

  value: float | None
  low: float | None
  high: float | None
  n_real: int
  n_fake: int
  dimension: int
  ceiling: float | None = None
  ceiling_n: int | None = None
  at_ceiling_n: float | None = None
  note: str = ''


class Ceiling(NamedTuple):
  """The scores of real images against other real images.

  Attributes:
    p_ids: None where there are too few images.
    u_ids: likewise.
    n: number of pairs.
    pairs: int [n], positions of the results of an evaluation of that size.
  """

  p_ids: float | None
  u_ids: float | None
  n: int
  pairs: np.ndarray


def metric_names(network: str) -> tuple[str, ...]:
  """The metrics of a feature network: distances, P-IDS, U-IDS, precision and recall."""
  if network == 'clip':
    return ('cmmd',)
  if network == 'inception':
    return ('kid', 'fid', 'p_ids', 'u_ids', 'precision', 'recall')
  return tuple(f'{name}_{network}'
               for name in ('kd', 'fd', 'p_ids', 'u_ids', 'precision', 'recall'))


Features = Mapping[str, np.ndarray]  # {network: [n, d]}


def of_systems(real: Features, results: Mapping[str, Features], image: np.ndarray,
               others: Features | None, seed: int = 0) -> dict[str, dict[str, Distance]]:
  """All distances of all feature networks for several systems.

  Args:
    real: of the real images.
    results: of each system's results, in one order for all.
    image: int [n], the row of `real` that each result belongs to.
    others: of real images that are not in `real`; None for none.
    seed: of resamples and random subsets.

  Returns:
    {system: {metric: Distance}}. What cannot be measured, as features that are not finite or
    a single image, is None with the reason.
  """
  found: dict[str, dict[str, Distance]] = {system: {} for system in results}
  for network, images in real.items():
    ceiling = None
    for system, own in results.items():
      try:
        if ceiling is None and network != 'clip':
          ceiling = ids_ceiling(images, image, None if others is None else others[network], seed)
        found[system] |= measure(images, own[network], image, network, ceiling, seed)
      except UserError as error:
        reason = Distance(None, None, None, len(images), len(own[network]), images.shape[1],
                          note=f"Not measurable: {str(error).rstrip('.')}.")
        found[system] |= dict.fromkeys(metric_names(network), reason)
  return found


def measure(real: np.ndarray, fake: np.ndarray, image: np.ndarray, network: str,
            ceiling: Ceiling | None = None, seed: int = 0) -> dict[str, Distance]:
  """All distances of one feature network, with bootstrap 95 % intervals over images.

  The kernel distance is unbiased for independent sets and may be below 0; results are not
  independent of their own images, and where that matters the note says by how much. The
  interval of the Frechet distance is about its expectation at this number of images, and
  those of P-IDS and U-IDS take the fitted SVM as given.

  Args:
    real: [N, d], features of the real images.
    fake: [n, d], features of the results.
    image: int [n], the row of `real` that each result belongs to.
    network: 'inception', 'vgg16', 'dinov2' or 'clip'.
    ceiling: see `ids_ceiling`, which is the same for all systems; None computes it from
      `real` alone. CLIP needs none.
    seed: of resamples and random subsets.

  Returns:
    {metric: Distance} in the order of `metric_names`.

  Raises:
    UserError: features that cannot be compared, or one image only.
  """
  real, fake = distribution.check(real, fake)
  image, names = np.asarray(image), metric_names(network)
  if image.shape != fake.shape[:1] or image.min() < 0 or image.max() >= len(real):
    raise ValueError(f'image has to be {len(fake)} rows of {len(real)} real images')
  marks = _marks(real, fake, image)
  if network == 'clip':
    found = [_cmmd(real, fake, image, seed)]
  else:
    logging.info('Distances of %d results and %d images, %s.', len(fake), len(real), network)
    found = [_kernel(real, fake, image, seed), _frechet(real, fake, image),
             *_ids(real, fake, image, ceiling or ids_ceiling(real, image, seed=seed), seed),
             *_coverage(real, fake, image, seed)]
  if len(real) < _FEWEST_IMAGES:
    found = [distance._replace(low=None, high=None) for distance in found]
    marks.append(f'{len(real)} images are too few for an interval.')
  return {name: distance._replace(note=' '.join([*marks, distance.note]).strip())
          for name, distance in zip(names, found, strict=True)}


def _marks(real: np.ndarray, fake: np.ndarray, image: np.ndarray) -> list[str]:
  """Warnings that concern all distances of these sets."""
  marks = [f'All {name} have the same features.' for name, x in (
      ('real images', real), ('results', fake)) if (x == x[0]).all()]
  if np.array_equal(real[image], fake):
    marks.append('Every result has the features of its real image.')
  return marks


def _distance(estimate: distance_intervals.Estimate, real: np.ndarray, fake: np.ndarray,
              notes: list[str]) -> Distance:
  return Distance(*estimate, len(real), len(fake), real.shape[1], note=' '.join(notes))


def _kernel(real: np.ndarray, fake: np.ndarray, image: np.ndarray, seed: int) -> Distance:
  estimate, apart = distance_intervals.kernel_estimate(
      real, fake, image, distribution.polynomial_kernel(real.shape[1]), unbiased=True,
      seed=seed)
  notes = _dependence(estimate.value, apart)
  if estimate.value < 0:
    notes.append('Below 0, as unbiased estimates can be.')
  if len(real) >= 2 * _SUBSET_SIZE:  # fewer would give nearly the same subset every time
    mean, deviation = distribution.kernel_distance_subsets(
        real, fake, _SUBSETS, _SUBSET_SIZE, seed)
    notes.append(f'Over {_SUBSETS} subsets of {_SUBSET_SIZE:,}: mean {mean:.3g}, standard '
                 f'deviation {deviation:.2g}.')
  return _distance(estimate, real, fake, notes)


def _cmmd(real: np.ndarray, fake: np.ndarray, image: np.ndarray, seed: int) -> Distance:
  estimate, apart = distance_intervals.kernel_estimate(
      distribution.unit_rows(real), distribution.unit_rows(fake), image,
      distribution.gaussian_kernel, unbiased=False, seed=seed)
  scaled = distance_intervals.Estimate(
      *(max(0.0, distribution.CMMD_SCALE * value) for value in estimate))
  return _distance(scaled, real, fake,
                   _dependence(scaled.value, distribution.CMMD_SCALE * apart))


def _dependence(value: float, apart: float) -> list[str]:
  """A note on the bias by pairs within an image, where that is more than a tenth."""
  if abs(value - apart) <= 0.1 * abs(apart):
    return []
  return [f'Biased by the pairs that belong to one image: {apart:z.5f} without them.']


def _frechet(real: np.ndarray, fake: np.ndarray, image: np.ndarray) -> Distance:
  n, d, notes = min(len(real), len(fake)), real.shape[1], []
  if n <= d:
    notes.append(f'The covariance of {n:,} images in {d:,} dimensions is singular.')
  if n < _ENOUGH_IMAGES:
    notes.append(f'Biased upwards at {n:,} images: compare at equal n only, and prefer the kernel '
                 'distance.')
  return _distance(distance_intervals.frechet_estimate(real, fake, image), real, fake, notes)


def ids_ceiling(real: np.ndarray, image: np.ndarray, others: np.ndarray | None = None,
                seed: int = 0) -> Ceiling:
  """P-IDS and U-IDS of real images against other real images.

  No system can be expected to score higher. The real set is that of the metric, each image
  as often as it has results; other real images replace the results. Without enough of them
  one half of the images is compared with the other.

  Args:
    real: [N, d], features of the real images.
    image: int [n], the row of `real` that each result belongs to.
    others: [M, d], features of real images that are not in `real`; None for none.
    seed: of the random choices.

  Returns:
    The ceiling at n pairs, or at the larger of M and N // 2 where that is fewer.
  """
  rng = np.random.default_rng(seed)
  pairs = _spread(np.asarray(image), rng)
  n = len(real) // 2
  if others is not None and len(others) >= max(n, 2):
    real, others = distribution.check(real, others, ('real', 'other real'))
    n = min(len(image), len(others))
    pairs = np.sort(pairs[:n])
    first, second = real[image[pairs]], others[rng.permutation(len(others))[:n]]
  else:
    pairs = np.sort(pairs[:n])
    order = rng.permutation(len(real))
    first, second = real[order[:n]], real[order[n:2 * n]]
  scores: tuple[float | None, float | None] = (
      distribution.ids(first, second) if n >= 2 else (None, None))
  return Ceiling(*scores, n, pairs)


def _spread(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Results in random order, the first of every image before the second of any."""
  order = rng.permutation(len(image))
  group = image[order]
  by_image = np.argsort(group, kind='stable')
  turn = np.empty_like(by_image)
  turn[by_image] = np.arange(len(group)) - np.searchsorted(group[by_image], group[by_image])
  return order[np.argsort(turn, kind='stable')]


def _ids(real: np.ndarray, fake: np.ndarray, image: np.ndarray, ceiling: Ceiling,
         seed: int) -> list[Distance]:
  """P-IDS and U-IDS."""
  scores = distribution.svm_scores(real[image], fake)
  values = distribution.ids_from_scores(scores)
  hits = (scores.fake > scores.real, np.mean([scores.real <= 0, scores.fake > 0], 0))
  fewer: tuple[float | None, ...] = (None, None)
  if ceiling.n < len(fake) and (ceiling.p_ids or ceiling.u_ids):
    fewer = distribution.ids(real[image[ceiling.pairs]], fake[ceiling.pairs])
  found = []
  for value, hit, top, at in zip(values, hits, ceiling[:2], fewer, strict=True):
    low, high = distance_intervals.mean_interval(hit, image, seed)
    distance = Distance(value, low, high, len(real), len(fake), real.shape[1])
    distance = _judged(distance, top, ceiling.n, at, np.array_equal(real[image], fake))
    if not scores.converged:
      distance = distance._replace(note=f'{distance.note} The SVM did not converge.'.strip())
    found.append(distance)
  return found


def _coverage(real: np.ndarray, fake: np.ndarray, image: np.ndarray, seed: int) -> list[Distance]:
  """Precision and recall, the manifolds taken as given."""
  size = len(real), len(fake), real.shape[1]
  if min(len(real), len(fake)) <= precision_recall.NEIGHBOURS:
    unmeasured = Distance(None, None, None, *size, note='Not measurable: it takes more than '
                          f'{precision_recall.NEIGHBOURS} images.')
    return [unmeasured, unmeasured]
  found = precision_recall.coverage(real, fake)
  sides = ((found.fake, image), (found.real, np.arange(len(real))))
  return [Distance(float(hit.mean()), *distance_intervals.mean_interval(hit, row, seed), *size)
          for hit, row in sides]


def _judged(distance: Distance, ceiling: float | None, ceiling_n: int, at_ceiling_n: float | None,
            identical: bool) -> Distance:
  """A P-IDS or U-IDS with its ceiling; without its value where that is meaningless."""
  n, images, d, value = distance.n_fake, distance.n_real, distance.dimension, distance.value
  unmeasured = distance._replace(value=None, low=None, high=None)
  if identical:
    return unmeasured._replace(note='Not measurable: there is nothing to tell apart.')
  if ceiling:
    distance = distance._replace(ceiling=ceiling, ceiling_n=ceiling_n, at_ceiling_n=at_ceiling_n)
    if value:
      return distance
    bound = min(1.0, 3 / images)  # the rule of three; images are independent, masks are not
    return distance._replace(high=bound, note=f'0 of {n:,} pairs of {images:,} images: below '
                             f'{bound:.2g} with 95 % confidence.')
  if ceiling is None:
    reason = f'{images:,} images are too few to set real against real'
  else:
    reason = (f'real against real scores 0 at {ceiling_n:,} pairs of {images:,} images, as a plane '
              f'in {d:,} dimensions separates them; it takes about {d:,} different images, or '
              f'{d // 2:,} with six masks each')
  if value and n > d:
    return distance._replace(note=f'Without a ceiling: {reason}.')
  if value:
    reason += f'; the {value:.2g} found means only that results resemble their own images'
  return unmeasured._replace(note=f'Not measurable at n = {n:,}: {reason}.')
