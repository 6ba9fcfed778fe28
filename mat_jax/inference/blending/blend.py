"""Fills without a visible border.

A network's colours in the hole differ a little from those around it, most of all in the pixels
next to the border, and it fills without grain. So these pixels are replaced, the fill is shifted to
meet the kept ones, as in seamless cloning, and gets grain; enlarged, it gets texture, too. Kept
pixels stay as they are.
"""

import numpy as np
from scipy import ndimage

from mat_jax.inference.blending.grain import match_grain
from mat_jax.inference.blending.membrane import membrane
from mat_jax.inference.blending.texture import transfer_texture

# Width of the rim of a fill that is replaced, in pixels of the network. With the model `small` every
# pixel up to 3 brought the result closer to the original (docs/inpainting.md).
_RIM = 3
# Width of the kept surroundings whose grain is measured, in pixels.
_GRAIN_RING = 24
# Enlarged less than this, a fill has more detail than patches give it: with the model `small` LPIPS
# rose by 2 % at 1.25, and fell by 4 % at 1.5 and by 13 % at 3 (docs/inpainting.md).
_LEAST_SCALE = 1.4
# How close to the border differences are compared with those across it, in pixels.
_BAND = 8


def grow(hole: np.ndarray, width: int) -> np.ndarray:
  """Grows a hole to all sides, corners included.

  Args:
    hole: bool [H, W].
    width: by how many pixels; 0 leaves it as it is.

  Returns:
    bool [H, W].
  """
  return ndimage.maximum_filter(hole, 2 * width + 1, mode='constant')


def blend(output: np.ndarray, truth: np.ndarray, known: np.ndarray, hole: np.ndarray,
          seamless: bool, grain: bool, seed: int, feather_width: int = 0,
          scale: float = 1.0, texture: bool = False) -> np.ndarray:
  """Fits a network's output into the picture around the hole.

  Args:
    output: float [H, W, 3] of any range, what the network made of the picture with the hole
      `grow(hole, feather_width)`; read there alone.
    truth: float [H, W, 3] of the same range.
    known: bool [H, W], where `truth` is valid.
    hole: bool [H, W], what is to be filled.
    seamless: whether to fit colours to those of the kept pixels, see `fit_colours`.
    grain: whether to add grain, see `match_grain`.
    seed: of the grain and of the texture.
    feather_width: over how many kept pixels the fill fades out; with 0 all kept pixels stay as
      they are.
    scale: pixels of the picture per pixel of the network.
    texture: whether a fill that was enlarged is made of patches of the kept picture, see
      `transfer_texture`.

  Returns:
    float32 [H, W, 3], the fill in the hole and `truth` elsewhere; fitted or with grain, values
    may leave their range.
  """
  valid = known | hole
  filled = grow(hole, feather_width) & valid
  kept = valid & ~filled
  fill = np.where(filled[..., None], output, truth)
  if seamless:
    fill = fit_colours(replace_rim(fill, kept, filled, round(_RIM * max(scale, 1))), kept, filled)
  if texture and scale >= _LEAST_SCALE:
    fill = transfer_texture(fill, truth, kept, filled, scale, seed)
    if seamless:
      fill = fit_colours(fill, kept, filled)
  if grain:
    fill = match_grain(fill, truth, grow(hole, _GRAIN_RING) & kept, filled, seed)
  mixed = feather(fill, truth, hole, feather_width)
  return np.where(filled[..., None], mixed, truth).astype(np.float32)


def replace_rim(picture: np.ndarray, kept: np.ndarray, hole: np.ndarray,
                width: int) -> np.ndarray:
  """Continues a fill to its border from further in.

  A network sees the mask and may draw its outline: a line of other colours, which a membrane would
  spread into the hole.

  Args:
    picture: [H, W, C] with its hole filled.
    kept: bool [H, W], pixels outside of the hole.
    hole: bool [H, W].
    width: of the rim that is replaced, in pixels.

  Returns:
    [H, W, C], each pixel of the rim as the nearest one that is not rim; as it was where the hole
    is too narrow to have one.
  """
  inner = hole & ~grow(kept, width)
  if not inner.any():
    return picture
  distance, nearest = ndimage.distance_transform_edt(~inner, return_indices=True)
  # In a corner the nearest one is a diagonal away; what is farther away is another place's.
  rim = hole & ~inner & (distance <= 1.5 * width + 1)
  return np.where(rim[..., None], picture[tuple(nearest)], picture)


def fit_colours(picture: np.ndarray, kept: np.ndarray, hole: np.ndarray) -> np.ndarray:
  """Lets a fill meet the kept pixels around it.

  Seamless cloning (Pérez, Gangnet & Blake, "Poisson Image Editing", 2003): the differences
  between neighbours in the hole stay what they are but for a membrane, and across the border there
  is to be none. A network's own difference there cannot be taken, as nothing is learnt about
  its output at known pixels; nor can what it makes of known pixels that are hidden from it,
  which differs from the truth in every detail.

  Args:
    picture: float [H, W, C] of any range, with its hole filled.
    kept: bool [H, W], pixels that the fill is to meet; no pixel of the hole.
    hole: bool [H, W].

  Returns:
    float32 [H, W, C], the picture with a membrane added in the hole; values may leave their range.
  """
  beside, count = _mean_of_hole_neighbours(picture, hole)
  border = kept & (count > 0)
  offset = membrane(picture - beside, border, hole)
  return (picture + np.where(hole[..., None], offset, 0)).astype(np.float32)


def _mean_of_hole_neighbours(picture: np.ndarray,
                             hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean [H, W, C] of those of the four neighbours that are hole, and their number [H, W]."""
  cross = ndimage.generate_binary_structure(2, 1).astype(np.float32)
  cross[1, 1] = 0
  count = ndimage.correlate(hole.astype(np.float32), cross, mode='constant')
  sums = ndimage.correlate(np.where(hole[..., None], picture, 0).astype(np.float32),
                           cross[..., None], mode='constant')
  return sums / np.maximum(count, 1)[..., None], count


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
