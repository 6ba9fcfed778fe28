"""Which squares of a picture the network gets to see, and in which order.

The network sees a square of `resolution` pixels a side. A hole that fits into it with context
is seen at native scale, with what else is near in the same square. Of a larger one, by strategy:

- `auto`: thin damage in tiles at native scale; else one window that is shrunk up to
  `max_enlarge` times for the network; else a coarse window and then tiles at native scale.
- `tile`: thin damage in tiles, all else in a coarse window and then tiles.
- `resize`: one window, shrunk as much as it takes, and blurred or with the texture of what is known.
- `crop`: one window at native scale, with as little context as there is room for, or an error.

There is one coarse pass and none between it and the tiles: whether one would help has to be
measured with a network that was trained at full size.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from mat_jax.errors import UserError
from mat_jax.inference.planning import tiling
from mat_jax.inference.planning.grouping import group_boxes, share_boxes
from mat_jax.inference.planning.holes import Box, Holes, Region, find_holes
from mat_jax.inference.planning.waves import number_waves
from mat_jax.inference.planning.windows import Enlargement, Kind, Plan, Window

Strategy = Literal['auto', 'crop', 'resize', 'tile']


@dataclasses.dataclass(frozen=True)
class _View:
  """The picture's size and the options that decide about windows, see `plan`."""

  shape: tuple[int, int]
  resolution: int
  context: float
  strategy: Strategy
  max_enlarge: float
  stride: int

  @property
  def longer(self) -> int:
    return max(self.shape)

  def side(self, longest: int) -> int:
    """Side of the window of a hole, at most the picture's longer side."""
    least = max(math.ceil(self.context * longest), min(self.resolution, self.longer))
    return max(min(least, self.longer), longest)

  def group_limit(self) -> int:
    """The longest side of holes that share a window of the network's side."""
    if self.longer <= self.resolution:
      return self.longer
    limit = int(self.resolution / self.context)
    return limit if self.side(limit) <= self.resolution else limit - 1

  def window(self, region: Region, side: int, kind: Kind) -> Window:
    """The square round some pixels, inside the picture wherever that is large enough."""
    def place(size: int, start: int, stop: int) -> int:
      inside = min(max((start + stop - side) // 2, 0), size - side)
      return (size - side) // 2 if side >= size else inside

    top, left, bottom, right = region.box
    return Window(place(self.shape[0], top, bottom), place(self.shape[1], left, right),
                  side, self.resolution, kind, region)

  def tile(self, region: Region) -> Window:
    """The window of a part of a hole."""
    return self.window(region, self.resolution, 'tile')

  def middle(self, window: Window) -> Box:
    """Where a window has context for more than its hole; empty if it enlarges."""
    margin = (window.side - self.stride + 1) // 2 if window.enlarge <= 1 else window.side
    top, left, bottom, right = window.box
    return Box(top + margin, left + margin, bottom - margin, right - margin)


def plan(hole: np.ndarray, resolution: int, context: float = 1.5, strategy: Strategy = 'auto',
         max_enlarge: float = 4.0, overlap: float = 0.25) -> Plan:
  """Divides the filling of a picture into windows.

  Holes near each other share a window, and larger groups are filled first. The windows of a
  hole depend on the picture's size, on it and on what is near it, never on holes elsewhere.

  Args:
    hole: bool [H, W], True where the picture is to be filled.
    resolution: native resolution of the network, in pixels.
    context: side of a window over the longer side of its holes' bounding box, at least 1.
    strategy: what becomes of holes that do not fit, see the top of this module.
    max_enlarge: from where on `auto` tiles, and a notice is given; at least 1.
    overlap: share of the network's side by which neighbouring tiles overlap, from 0 to below 1.

  Returns:
    The plan; every hole pixel is filled by one window, and by a coarse one before its tile.

  Raises:
    UserError: options out of their range; a hole too large for `crop`.
  """
  if hole.ndim != 2 or hole.dtype != bool:
    raise ValueError(f'the hole is {hole.dtype} {hole.shape}; give bool [H, W]')
  _check_options(context, strategy, max_enlarge, overlap)
  view = _View((hole.shape[0], hole.shape[1]), resolution, context, strategy, max_enlarge,
               max(1, int(resolution * (1 - overlap))))
  holes = find_holes(hole)
  notices = []
  if not len(holes):
    notices.append('the mask has no hole; the picture stays as it is')
  elif holes.sizes.sum() == hole.size:
    notices.append('the mask keeps nothing of the picture; all of it is invented')
  groups = _windows_by_size(holes, view)
  enlargements = [entry for entry in map(_enlargement, groups) if entry.factor > 1]
  notices.extend(_notice(entry) for entry in enlargements if entry.factor > max_enlarge)
  waves = _in_waves([window for windows in groups for window in windows], resolution)
  return Plan(waves, tuple(notices), tuple(enlargements))


def _check_options(context: float, strategy: str, max_enlarge: float, overlap: float) -> None:
  if strategy not in ('auto', 'crop', 'resize', 'tile'):
    raise UserError(f'strategy is {strategy!r}; choose auto, crop, resize or tile')
  for name, value in (('context', context), ('max_enlarge', max_enlarge)):
    if not 1 <= value < math.inf:
      raise UserError(f'{name} is {value}; give a number from 1 on')
  if not 0 <= overlap < 1:
    raise UserError(f'overlap is {overlap}; give a number from 0 to below 1')


def _windows_by_size(holes: Holes, view: _View) -> list[list[Window]]:
  """The windows of each large hole and of each group of small ones, most pixels first.

  What lies in the middle of a window of the network's scale is filled along with its hole;
  the fringes of soft brushes would otherwise cost a pass each.
  """
  longest = (holes.boxes[:, 2:] - holes.boxes[:, :2]).max(1, initial=0)
  small = np.flatnonzero(longest <= view.group_limit())
  large = np.flatnonzero(longest > view.group_limit())
  large = large[np.argsort(-holes.sizes[large], kind='stable')]
  # Size and number of the first hole; holes are in raster order, which decides about equals.
  keys = [(-int(holes.sizes[hole]), int(hole)) for hole in large]
  groups = [_windows_of(holes.region(large[i:i + 1]), view) for i in range(len(large))]
  shares = share_boxes(holes.boxes[small], [view.middle(w) for windows in groups for w in windows])
  taken = iter(shares)
  groups = [[_with_holes(window, holes, small[next(taken)]) for window in windows]
            for windows in groups]
  small = np.delete(small, np.concatenate([*shares, np.zeros(0, np.int64)]))
  order = np.argsort(-holes.sizes[small], kind='stable')
  for group in group_boxes(holes.boxes[small], order, view.group_limit()):
    members = small[group]
    keys.append((-int(holes.sizes[members].sum()), int(members.min())))
    groups.append(_windows_of(holes.region(members), view))
  return [windows for _, windows in sorted(zip(keys, groups, strict=True), key=lambda x: x[0])]


def _with_holes(window: Window, holes: Holes, members: np.ndarray) -> Window:
  """The window, filling some more holes."""
  if not len(members):
    return window
  return dataclasses.replace(window, hole=window.hole.union(holes.region(members)))


def _windows_of(region: Region, view: _View) -> list[Window]:
  """The windows of a group of holes, in the order of filling."""
  longest = region.box.longest
  side = view.side(longest)
  if side <= view.resolution:
    return [view.window(region, side, 'native' if side == view.resolution else 'resized')]
  if view.strategy == 'crop':
    if longest > view.resolution:
      raise UserError(
          f'the hole at {_place(region.box)} is {region.box.width} x {region.box.height} pixels; '
          f'strategy crop takes holes up to the {view.resolution} pixels that the network sees; '
          'choose strategy auto, tile or resize')
    return [view.window(region, view.resolution, 'native')]
  if view.strategy == 'resize':
    return [view.window(region, side, 'resized')]
  if tiling.is_thin(region, view.shape, view.resolution):
    return [view.tile(part) for part in tiling.thin_parts(region, view.stride)]
  if view.strategy == 'auto' and side <= view.max_enlarge * view.resolution:
    return [view.window(region, side, 'resized')]
  parts = tiling.solid_parts(region, view.shape, view.stride)
  return [view.window(region, side, 'coarse'), *(view.tile(part) for part in parts)]


def _enlargement(windows: list[Window]) -> Enlargement:
  """What the report says of the windows of a group of holes."""
  first = windows[0]  # the coarse one, if there is one
  tiles = len(windows) - 1 if first.kind == 'coarse' else 0
  return Enlargement(first.hole.box, first.enlarge, tiles)


def _notice(enlargement: Enlargement) -> str:
  """A sentence about a hole whose enlargement is beyond the limit."""
  start = f'the hole at {_place(enlargement.box)} is filled from a picture shrunk'
  if enlargement.tiles:
    return (f'{start} {enlargement.factor:.1f} times, and then again in {enlargement.tiles} tiles '
            'at full scale, which may not agree on large shapes')
  return (f'{start} {enlargement.factor:.1f} times, which leaves out detail; strategy auto or '
          'tile fills it at full scale')


def _place(box: Box) -> str:
  return f'x {box.left}..{box.right - 1}, y {box.top}..{box.bottom - 1}'


def _in_waves(windows: list[Window], cell: int) -> tuple[tuple[Window, ...], ...]:
  numbers = number_waves([window.box for window in windows],
                         [window.hole.box for window in windows], cell)
  waves: list[list[Window]] = [[] for _ in range(max(numbers, default=-1) + 1)]
  for window, number in zip(windows, numbers, strict=True):
    waves[number].append(window)
  return tuple(tuple(wave) for wave in waves)
