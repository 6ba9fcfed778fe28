"""Random free-form masks: boxes and brush strokes, as MAT was trained with.

A mask is 1 where a pixel is kept and 0 in the hole. The distribution is the one of
MAT (Li et al., CVPR 2022, arXiv 2203.15270): a few boxes, which may hang over the
edge, and a few thick zigzag strokes. The preset `large` fills 40 % of an image on
average, `small` 22 %.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from mat_jax.errors import UserError

# Vertices of a stroke: its start and 4 to 17 more.
_MIN_VERTICES = 5
_MAX_VERTICES = 18
# The line width of a stroke is uniform in [12, 48) pixels at 256 and at 512.
_MIN_WIDTH = 12
_MAX_WIDTH = 48
# Redrawing is cheap, but a range that no mask meets must not hang the training.
_MAX_ATTEMPTS = 10_000


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
  """Draws the random mask that belongs to a seed.

  The numbers of shapes are the published ones of 256 x 256 up to that resolution
  and of 512 x 512 above it. Sizes grow with the resolution, but the brush is as
  many pixels wide at 512 as at 256; below 256 and above 512 it scales as well, so
  that hole ratios stay what they are there.

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
  check_settings(resolution, preset, hole_range)
  limits = _LIMITS[preset, 256 if resolution <= 256 else 512]
  low, high = hole_range
  # Counter-based: the key alone selects the stream, with no state to warm up.
  rng = np.random.Generator(np.random.Philox(key=int(seed) % 2**64))
  for _ in range(_MAX_ATTEMPTS):
    canvas = Image.new('L', (resolution, resolution), 1)
    draw = ImageDraw.Draw(canvas)
    _draw_boxes(draw, rng, resolution, limits.small_boxes, resolution // 2)
    _draw_boxes(draw, rng, resolution, limits.large_boxes, resolution)
    _draw_strokes(draw, rng, resolution, limits.strokes)
    mask = np.asarray(canvas)
    if low < 1 - np.count_nonzero(mask) / mask.size < high:
      return mask[:, :, None].astype(np.float32)
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


def _draw_boxes(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    resolution: int,
    limit: int,
    max_side: int,
) -> None:
  """Draws fewer than `limit` boxes with sides below `max_side` pixels."""
  count = rng.integers(limit)
  sides = rng.integers(max_side, size=(count, 2))
  # Up to half of a box may hang over either edge.
  corners = rng.integers(-(sides // 2), resolution - sides + sides // 2, endpoint=True)
  for (x, y), (width, height) in zip(corners.tolist(), sides.tolist(), strict=True):
    if width and height:
      draw.rectangle((x, y, x + width - 1, y + height - 1), fill=0)


def _draw_strokes(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, resolution: int, limit: int) -> None:
  """Draws fewer than `limit` brush strokes with round ends and joints."""
  count = rng.integers(limit)
  if not count:
    return
  scale = min(1, resolution / 256) * max(1, resolution / 512)
  widths = rng.uniform(_MIN_WIDTH * scale, _MAX_WIDTH * scale, size=count)
  num_vertices = rng.integers(_MIN_VERTICES, _MAX_VERTICES, size=count, endpoint=True)
  vertices = _stroke_vertices(rng, resolution, count)
  for points, number, width in zip(
      vertices.tolist(), num_vertices.tolist(), widths.tolist(), strict=True):
    points = [tuple(point) for point in points[:number]]
    draw.line(points, fill=0, width=max(1, int(width)))
    radius = width // 2
    for x, y in points:
      draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)


def _stroke_vertices(rng: np.random.Generator, resolution: int, count: int) -> np.ndarray:
  """Returns zigzag walks as (x, y), float64 [count, _MAX_VERTICES, 2] in [0, resolution]."""
  steps = _MAX_VERTICES - 1
  # Directions of about 72 degrees, turned up and down in alternation.
  mean = 2 * math.pi / 5
  spread = 2 * math.pi / 15 * rng.random((count, 2, 1))
  low, high = mean - spread[:, 0], mean + spread[:, 1]
  angles = low + (high - low) * rng.random((count, steps))
  angles[:, 1::2] *= -1
  radius = math.sqrt(2) * resolution / 8
  lengths = np.clip(rng.normal(radius, radius // 2, (count, steps)), 0, 2 * radius)
  walk = np.empty((count, _MAX_VERTICES, 2))
  walk[:, 0] = rng.uniform(0, resolution, (count, 2))
  walk[:, 1:, 0] = lengths * np.cos(angles)
  walk[:, 1:, 1] = lengths * np.sin(angles)
  # Not a cumulative sum: a walk that meets an edge goes on from there.
  for i in range(1, _MAX_VERTICES):
    walk[:, i] = np.clip(walk[:, i - 1] + walk[:, i], 0, resolution)
  # One pair of flips for all strokes of a mask.
  flips = rng.random(2) < 0.5
  return np.where(flips, resolution - walk, walk)
