"""Random free-form masks: boxes and brush strokes, as MAT was trained with.

A mask is 1 where a pixel is kept and 0 in the hole. The distribution is the one of
MAT (Li et al., CVPR 2022, arXiv 2203.15270): a few boxes, which may hang over the
edge, and a few thick zigzag strokes. The preset `large` fills 40 % of an image on
average, `small` 22 %.

Masks are generated in batches: the random numbers of all of them go through the same
few NumPy calls, and OpenCV draws a whole stroke with the interpreter lock released,
so that Python does not limit the throughput of a host of many cores.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import math

import cv2
import numpy as np

from mat_jax.errors import UserError

# Vertices of a stroke: its start and 4 to 17 more.
_MIN_VERTICES = 5
_MAX_VERTICES = 18
# The line width of a stroke is uniform in [12, 48) pixels at 256 and at 512.
_MIN_WIDTH = 12
_MAX_WIDTH = 48
# Redrawing is cheap, but a range that no mask meets must not hang the training.
_MAX_ATTEMPTS = 10_000
# Bits behind the point of the coordinates that OpenCV draws at.
_SHIFT = 4


@dataclasses.dataclass(frozen=True)
class _Limits:
  """Exclusive upper limits of the numbers of shapes in a mask."""
  small_boxes: int  # Boxes with sides up to half of the image's.
  large_boxes: int  # Boxes with sides up to the image's.
  strokes: int


_LIMITS = {
    ('large', 256): _Limits(small_boxes=4, large_boxes=2, strokes=8),
    ('small', 256): _Limits(small_boxes=2, large_boxes=2, strokes=3),
    ('large', 512): _Limits(small_boxes=5, large_boxes=3, strokes=9),
    ('small', 512): _Limits(small_boxes=3, large_boxes=2, strokes=4),
}
PRESETS = ('large', 'small')


def random_mask(
    seed: int,
    resolution: int,
    preset: str,
    hole_range: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
  """Generates the random mask of a seed; see `fill_random_masks`.

  Args:
    seed: any integer; taken modulo 2**64. Equal arguments give equal masks.
    resolution: side of the mask in pixels.
    preset: `large` or `small`.
    hole_range: exclusive limits of the fraction of hole pixels, within [0, 1];
      masks outside are redrawn.

  Returns:
    float32 [resolution, resolution, 1], 1 = keep, 0 = hole.

  Raises:
    UserError: unknown preset, a resolution below 8 or a range that masks of this
      preset do not meet.
  """
  mask = np.empty((1, resolution, resolution, 1), np.float32)
  fill_random_masks(mask, [seed], preset, hole_range)
  return mask[0]


def fill_random_masks(
    out: np.ndarray,
    seeds: Sequence[int] | np.ndarray,
    preset: str,
    hole_range: tuple[float, float] = (0.0, 1.0),
) -> None:
  """Generates the random masks of seeds, each independent of the others.

  The numbers of shapes are the published ones of 256 x 256 up to that resolution
  and of 512 x 512 above it. Sizes grow with the resolution, but the brush is as
  many pixels wide at 512 as at 256; below 256 and above 512 it scales as well, so
  that hole ratios stay what they are there.

  Args:
    out: float32 [n, resolution, resolution, 1], contiguous; where the masks go.
    seeds: n integers; see `random_mask`.
    preset: see `random_mask`.
    hole_range: see `random_mask`.

  Raises:
    UserError: as `random_mask`.
  """
  resolution = out.shape[1]
  check_settings(resolution, preset, hole_range)
  limits = _LIMITS[preset, 256 if resolution <= 256 else 512]
  low, high = hole_range
  # Counter-based: the key alone selects the stream, with no state to warm up.
  pending = [(mask, np.random.Generator(np.random.Philox(key=int(seed) % 2**64)))
             for mask, seed in zip(out[..., 0], seeds, strict=True)]
  for _ in range(_MAX_ATTEMPTS):
    if not pending:
      return
    drawings = _draw([rng for _, rng in pending], resolution, limits)
    rejected = []
    for (mask, rng), drawing in zip(pending, drawings, strict=True):
      if low < 1 - cv2.countNonZero(drawing) / drawing.size < high:
        mask[...] = drawing
      else:
        rejected.append((mask, rng))
    pending = rejected
  raise UserError(
      f'none of {_MAX_ATTEMPTS} masks of the preset {preset!r} had a hole ratio between {low} and '
      f'{high}; widen the range or take another preset')


def check_settings(resolution: int, preset: str, hole_range: tuple[float, float]) -> None:
  """Raises a UserError if `random_mask` cannot serve these arguments."""
  if preset not in PRESETS:
    raise UserError(f'unknown mask preset {preset!r}; choose one of {", ".join(PRESETS)}')
  if resolution < 8:
    raise UserError(f'a mask of {resolution} pixels a side is too small; use 8 or more')
  low, high = hole_range
  if not 0 <= low < high <= 1:
    raise UserError(
        f'the hole range ({low}, {high}) is not one; give 0 <= lowest < highest <= 1')


def _draw(rngs: Sequence[np.random.Generator], resolution: int,
          limits: _Limits) -> Iterator[np.ndarray]:
  """Yields an attempt at a mask from each generator, uint8 [resolution, resolution].

  The array is the same every time: it stays in the processor's cache.
  """
  boxes = []
  for limit, max_side in (
      (limits.small_boxes, resolution // 2), (limits.large_boxes, resolution)):
    numbers = np.stack([rng.random((limit, 4)) for rng in rngs])
    boxes.append(_boxes(numbers, resolution, max_side))
  mask = np.empty((resolution, resolution), np.uint8)
  for small, large, *strokes in zip(*boxes, *_strokes(rngs, resolution, limits.strokes),
                                    strict=True):
    mask.fill(1)
    for top, bottom, left, right in small + large:
      mask[top:bottom, left:right] = 0
    for walk, length, width in zip(*strokes, strict=True):
      if length:
        # OpenCV rounds the ends and joints of thick lines.
        cv2.polylines(mask, [walk[:length]], False, 0, width, cv2.LINE_8, _SHIFT)
    yield mask


def _boxes(numbers: np.ndarray, resolution: int, max_side: int) -> list[list[list[int]]]:
  """Turns random numbers into boxes with sides below `max_side` pixels.

  Args:
    numbers: uniform in [0, 1), [n, limit, 4].
    resolution: side of the mask in pixels.
    max_side: exclusive.

  Returns:
    For each of n masks fewer than `limit` boxes (top, bottom, left, right), ends
    exclusive, within the mask.
  """
  limit = numbers.shape[1]
  # The number of boxes comes from the last box, which is never drawn.
  counts = (numbers[:, -1, 0] * limit).astype(np.int64)
  sides = (numbers[..., :2] * max_side).astype(np.int64)
  # Up to half of a box may hang over either edge.
  room = resolution - sides + 2 * (sides // 2)
  corners = (numbers[..., 2:] * (room + 1)).astype(np.int64) - sides // 2
  starts, ends = np.maximum(corners, 0), np.minimum(corners + sides, resolution)
  boxes = np.stack([starts, ends], -1).reshape(*numbers.shape)
  return [part[:count].tolist() for part, count in zip(boxes, counts, strict=True)]


def _strokes(
    rngs: Sequence[np.random.Generator], resolution: int, limit: int
) -> tuple[np.ndarray, list[list[int]], list[list[int]]]:
  """Samples the brush strokes of masks, fewer than `limit` each.

  Returns:
    Zigzag walks as (x, y) in 1/2**_SHIFT pixels, int32 [n, limit - 1, _MAX_VERTICES, 2];
    numbers of vertices (0: no stroke) and OpenCV's thickness of the lines,
    [n][limit - 1].
  """
  steps = _MAX_VERTICES - 1
  strokes = limit - 1
  # A row for each stroke: width, vertices, start (2), spread (2) and the angles; the row
  # behind them is the mask's: number of strokes and flips (2).
  uniform = np.stack([rng.random((limit, 6 + steps)) for rng in rngs])
  normal = np.stack([rng.standard_normal((strokes, steps), np.float32) for rng in rngs])
  mask_numbers, uniform = uniform[:, -1], uniform[:, :-1]
  scale = min(1, resolution / 256) * max(1, resolution / 512)
  widths = scale * (_MIN_WIDTH + (_MAX_WIDTH - _MIN_WIDTH) * uniform[..., 0])
  lengths = _MIN_VERTICES + (uniform[..., 1] * (_MAX_VERTICES - _MIN_VERTICES + 1)).astype(int)
  counts = (mask_numbers[:, :1] * limit).astype(int)
  lengths[np.arange(strokes) >= counts] = 0
  walks = _walks(uniform[..., 2:4], uniform[..., 4:6], uniform[..., 6:], normal, resolution)
  # One pair of flips for all strokes of a mask.
  flips = mask_numbers[:, None, None, 1:3] < 0.5
  walks = np.where(flips, resolution - walks, walks)
  # Pixel (0, 0) covers [0, 1) x [0, 1); for OpenCV its centre is the origin.
  points = np.rint((walks - 0.5) * 2**_SHIFT).astype(np.int32)
  # OpenCV draws an even thickness one pixel wider. Published strokes are int(width) pixels
  # wide and their joints the next odd number; a quarter of a pixel lies between the means.
  thickness = np.maximum(1, 2 * ((widths - 0.25) // 2)).astype(int)
  return points, lengths.tolist(), thickness.tolist()


def _walks(start: np.ndarray, spread: np.ndarray, turn: np.ndarray, normal: np.ndarray,
           resolution: int) -> np.ndarray:
  """Returns walks [..., steps + 1, 2] in [0, resolution] from random numbers.

  Args:
    start: uniform in [0, 1), [..., 2].
    spread: likewise.
    turn: likewise, [..., steps].
    normal: standard normal, [..., steps].
    resolution: side of the mask in pixels.
  """
  # Directions of about 72 degrees, turned up and down in alternation.
  mean = 2 * math.pi / 5
  spread = 2 * math.pi / 15 * spread
  low, high = mean - spread[..., :1], mean + spread[..., 1:]
  angles = low + (high - low) * turn
  angles[..., 1::2] *= -1
  radius = math.sqrt(2) * resolution / 8
  lengths = np.clip(radius + radius // 2 * normal, 0, 2 * radius)
  moves = lengths[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
  walks = np.empty((*turn.shape[:-1], turn.shape[-1] + 1, 2))
  walks[..., 0, :] = start * resolution
  # Not a cumulative sum: a walk that meets an edge goes on from there.
  for i in range(turn.shape[-1]):
    np.clip(walks[..., i, :] + moves[..., i, :], 0, resolution, out=walks[..., i + 1, :])
  return walks
