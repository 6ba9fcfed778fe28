"""Texture of the known picture for a fill that was enlarged, and is blurred for it.

Guided PatchMatch (Zhang et al., "Inpainting at modern camera resolution by guided PatchMatch with
auto-curation", ECCV 2022): a network completes the shrunk picture, and what it made says which
patches of the known picture go where. Patches are compared as blurred as the fill is, all with all
instead of by a random search, and copied sharp; where they overlap they are averaged, as in
Wexler, Shechtman & Irani, "Space-time completion of video" (2007).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mat_jax.inference.blending.averages import average_over

# Standard deviation of the blur of a picture that is shrunk and enlarged n times, over n.
_BLUR = 0.6
# A patch reaches so far to each side: as many pixels as the fill was enlarged, at least.
_LEAST_RADIUS = 3
# Rows and columns of a patch that are compared; it is blurred, and has no more to tell.
_COMPARED = 4
# Patches of the known picture to choose from, at most.
_SOURCES = 20_000
# With fewer of them the fill stays as it is.
_LEAST_SOURCES = 64
# Patches that are compared with all of the known picture at a time.
_AT_A_TIME = 256
# Radius of a patch over the standard deviation of its weights.
_NARROW = 1.5
# Share of the patches that are as similar as the width of the weighting of overlapping ones.
_SIMILAR = 0.5


class _Places(NamedTuple):
  """Centres of patches: rows and columns, int [n] each."""

  rows: np.ndarray
  columns: np.ndarray

  def chosen(self, which: np.ndarray) -> '_Places':
    return _Places(self.rows[which], self.columns[which])


def transfer_texture(fill: np.ndarray, truth: np.ndarray, known: np.ndarray, hole: np.ndarray,
                     scale: float, seed: int) -> np.ndarray:
  """Makes a blurred fill of patches of the known picture that look like it when blurred.

  Args:
    fill: float [H, W, C] of any range, a completion that was enlarged; read in the hole only.
    truth: float [H, W, C] of the same range; read where it is known only.
    known: bool [H, W], pixels to take patches from; no pixel of the hole.
    hole: bool [H, W].
    scale: how much the fill was enlarged, above 1.
    seed: of the choice among patches where the known picture has more than are compared.

  Returns:
    float32 [H, W, C]: what the patches make of the hole, and `fill` elsewhere. Where the known
    picture is too small to have patches all of it is `fill`.
  """
  radius = max(_LEAST_RADIUS, round(scale))
  result = fill.astype(np.float32)
  sources = _some(_places(_eroded(known, radius)), seed)
  if len(sources.rows) < _LEAST_SOURCES or not hole.any():
    return result
  truth = truth.astype(np.float32, copy=False)
  blurred, _ = average_over(truth, known, _BLUR * scale)
  guide = np.where(hole[..., None], fill, blurred).astype(np.float32)
  targets = _targets(hole, radius)
  nearest, distance = _nearest(_patches(guide, targets, radius), _patches(blurred, sources, radius))
  voted = _vote(truth, targets, sources.chosen(nearest), _weights(distance), radius)
  return np.where(hole[..., None], voted, result)


def _places(area: np.ndarray) -> _Places:
  return _Places(*np.nonzero(area))


def _some(places: _Places, seed: int) -> _Places:
  """At most `_SOURCES` of them, in raster order."""
  count = len(places.rows)
  if count <= _SOURCES:
    return places
  return places.chosen(np.sort(np.random.default_rng(seed).permutation(count)[:_SOURCES]))


def _eroded(area: np.ndarray, radius: int) -> np.ndarray:
  """Where a patch lies in an area wholly."""
  return ndimage.minimum_filter(area, 2 * radius + 1, mode='constant', cval=False)


def _targets(hole: np.ndarray, radius: int) -> _Places:
  """Centres on a grid, so that every pixel of the hole lies in several patches."""
  step = max(1, 2 * radius // 3)
  near = ndimage.maximum_filter(hole, 2 * radius + 1, mode='constant')
  grid = np.zeros_like(hole)
  grid[::step, ::step] = True
  return _places(near & grid)


def _patches(picture: np.ndarray, places: _Places, radius: int) -> np.ndarray:
  """What is compared of the patches, float32 [n, values]; edges are mirrored."""
  padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode='reflect')
  offsets = np.rint(np.linspace(0, 2 * radius, _COMPARED)).astype(int)
  parts = [padded[places.rows + down, places.columns + right]
           for down in offsets for right in offsets]
  return np.concatenate(parts, axis=1)


def _nearest(patches: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Of each patch [n, V] the number of the most similar known one [m, V], and their distance.

  Returns:
    int [n]; float32 [n], sums of squares.
  """
  norms = np.square(known).sum(axis=1)
  numbers, distances = np.empty(len(patches), int), np.empty(len(patches), np.float32)
  for start in range(0, len(patches), _AT_A_TIME):
    part = slice(start, start + _AT_A_TIME)
    # |a - b|^2 less |a|^2, which is the same for all b.
    products = patches[part] @ known.T
    products *= -2
    products += norms
    numbers[part] = found = products.argmin(axis=1)
    distances[part] = np.square(patches[part] - known[found]).sum(axis=1)
  return numbers, distances


def _weights(distance: np.ndarray) -> np.ndarray:
  """Weights of patches when they overlap, float64 [n]: the similar ones count."""
  width = max(float(np.quantile(distance, _SIMILAR)), float(np.finfo(np.float32).tiny))
  return np.exp(-np.minimum(distance / (2 * width), 50.0))


def _vote(truth: np.ndarray, targets: _Places, sources: _Places, weights: np.ndarray,
          radius: int) -> np.ndarray:
  """The weighted mean of all patches that cover a pixel, float32 [H, W, C]; 0 where none does."""
  height, width, channels = truth.shape
  # One target per place, so that no index is there twice and sums need no `np.add.at`.
  sums = np.zeros((height + 2 * radius, width + 2 * radius, channels))
  total = np.zeros((height + 2 * radius, width + 2 * radius, 1))
  for down, right, share in _kernel(radius):
    weight = (weights * share)[:, None]
    place = (targets.rows + radius + down, targets.columns + radius + right)
    sums[place] += weight * truth[sources.rows + down, sources.columns + right]
    total[place] += weight
  inside = (slice(radius, -radius), slice(radius, -radius))
  return (sums[inside] / np.maximum(total[inside], np.finfo(float).tiny)).astype(np.float32)


def _kernel(radius: int) -> Iterator[tuple[int, int, float]]:
  """Offsets in a patch, and how much each counts: those in its middle most."""
  for down in range(-radius, radius + 1):
    for right in range(-radius, radius + 1):
      yield down, right, float(np.exp(-(down**2 + right**2) / (2 * (radius / _NARROW)**2)))
