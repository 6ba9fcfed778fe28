"""Fills without a visible border.

A network's colours in the hole differ a little from those around it, and it fills without grain.
So it gets a hole that is grown by a ring of known pixels: what it makes of these, compared with
the truth, tells how far it is off, and that is spread into the hole. Kept pixels stay as they are.
"""

import numpy as np
from scipy import ndimage

from mat_jax.inference.blending.grain import match_grain
from mat_jax.inference.blending.membrane import membrane

# Width of the kept surroundings whose grain is measured, in pixels.
_GRAIN_RING = 24
# How close to the border differences are compared with those across it, in pixels.
_BAND = 8


def grow(hole: np.ndarray, ring: int) -> np.ndarray:
  """Grows a hole to all sides, corners included.

  Args:
    hole: bool [H, W].
    ring: by how many pixels; 0 leaves it as it is.

  Returns:
    bool [H, W], the hole with a ring.
  """
  return ndimage.maximum_filter(hole, 2 * ring + 1, mode='constant')


def blend(output: np.ndarray, truth: np.ndarray, known: np.ndarray, hole: np.ndarray, ring: int,
          grain: bool, seed: int, feather_width: int = 0) -> np.ndarray:
  """Fits a network's output into the picture around the hole.

  Args:
    output: float [H, W, 3] of any range, what the network made of the picture with the hole
      `grow(hole, ring)`; read in the hole and its ring.
    truth: float [H, W, 3] of the same range.
    known: bool [H, W], where `truth` is valid.
    hole: bool [H, W], what is to be filled, without its ring.
    ring: width of the ring in pixels; with 0 colours stay as they are.
    grain: whether to add grain, see `match_grain`.
    seed: of the grain.
    feather_width: over how many kept pixels the fill fades out, less than `ring`; with 0 all kept
      pixels stay as they are.

  Returns:
    float32 [H, W, 3], the fill in the hole and `truth` elsewhere; with grain, values may leave
    their range.

  Raises:
    ValueError: `feather_width` leaves nothing of the ring to compare with.
  """
  if feather_width and feather_width >= ring:
    raise ValueError(f'feather_width {feather_width} is not less than the ring, {ring}')
  valid = known | hole
  filled = grow(hole, feather_width) & valid
  ring_mask = grow(hole, ring) & valid & ~filled
  difference = np.subtract(truth, output, dtype=np.float32)
  fill = np.where(filled[..., None], output + membrane(difference, ring_mask, filled), truth)
  if grain:
    fill = match_grain(fill, truth, grow(hole, _GRAIN_RING) & valid & ~filled, filled, seed)
  mixed = feather(fill, truth, hole, feather_width)
  return np.where(filled[..., None], mixed, truth).astype(np.float32)


def feather(fill: np.ndarray, truth: np.ndarray, hole: np.ndarray, width: int) -> np.ndarray:
  """Lets a fill fade out over kept pixels.

  Args:
    fill: float [H, W, C], valid in the hole and `width` pixels around it.
    truth: float [H, W, C].
    hole: bool [H, W].
    width: in pixels; with 0 only the hole is filled.

  Returns:
    float32 [H, W, C]: `fill` in the hole, `truth` from `width` pixels on, else mixed.
  """
  if not hole.any():
    return truth.astype(np.float32)
  if not width:
    return np.where(hole[..., None], fill, truth).astype(np.float32)
  near = np.clip(1 - ndimage.distance_transform_edt(~hole) / (width + 1), 0, 1)
  weight = (near * near * (3 - 2 * near)).astype(np.float32)[..., None]
  mixed = truth + weight * np.subtract(fill, truth, dtype=np.float32)
  return np.where(weight == 0, truth, np.where(weight == 1, fill, mixed)).astype(np.float32)


def border_gradient(result: np.ndarray, hole: np.ndarray) -> tuple[float, float]:
  """Measures whether the border of a hole shows: across / inside is then larger than 1.

  Args:
    result: [H, W, C] of any range, a picture with its hole filled.
    hole: bool [H, W].

  Returns:
    The mean absolute difference of neighbouring pixels of which one is in the hole and one is
    not; and of those on one side of the border, at most 8 pixels away from it, both sides
    having the same weight.

  Raises:
    ValueError: no border, or one side of it is nowhere two pixels wide.
  """
  result = result.astype(np.float32)
  near_kept, near_hole = grow(hole, _BAND) & ~hole, grow(~hole, _BAND) & hole
  sums, counts = np.zeros(3), np.zeros(3)
  for axis in (0, 1):
    change = np.abs(np.diff(result, axis=axis)).mean(axis=-1)
    kept, filled, inside = (
        np.moveaxis(mask, axis, 0) for mask in (near_kept, near_hole, hole))
    pairs = (inside[1:] != inside[:-1], kept[1:] & kept[:-1], filled[1:] & filled[:-1])
    for i, chosen in enumerate(pairs):
      sums[i] += np.moveaxis(change, axis, 0)[chosen].sum()
      counts[i] += np.count_nonzero(chosen)
  if not counts.all():
    raise ValueError('the hole has no border with two pixels at either side')
  across, kept_side, filled_side = sums / counts
  return float(across), float((kept_side + filled_side) / 2)
