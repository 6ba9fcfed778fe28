"""How a hole larger than the network sees is divided into parts of its native scale.

Every part is the middle of a tile, a square of the network's side, of which at least a margin
shows what is known, filled already, or filled coarsely. The parts do not overlap.
"""

import math

import numpy as np
from scipy import ndimage

from mat_jax.inference.planning.grouping import group_boxes
from mat_jax.inference.planning.holes import Box, Region

_THIN = 4  # a hole is thin up to a depth of the network's side / _THIN
_DEPTH_CELLS = 8  # in which that depth is measured
_PART_CELLS = 4  # of which a part of a thin hole has up to as many in each direction


def is_thin(hole: Region, shape: tuple[int, int], resolution: int) -> bool:
  """Whether all of a hole is near known pixels, as a scratch or a wire is.

  Args:
    hole: its pixels in their smallest box; all else in the picture counts as known.
    shape: height and width of the picture.
    resolution: side of the network's view. A hole is thin when each pixel has a known one
      within a quarter of that, in rows and in columns. This is measured, and rounded, in cells
      of a 32nd of that side.
  """
  cell = max(1, resolution // (_THIN * _DEPTH_CELLS))
  tops, lefts = np.arange(0, hole.box.height, cell), np.arange(0, hole.box.width, cell)
  full = np.logical_and.reduceat(np.logical_and.reduceat(hole.pixels, tops, 0), lefts, 1)
  depth = _depth(full, hole.box, shape)
  return bool(0 <= depth.max() <= max(1, resolution // (_THIN * cell)))


def solid_parts(hole: Region, shape: tuple[int, int], stride: int) -> list[Region]:
  """The parts of a hole that extends in both directions, on a grid of equal cells.

  Args:
    hole: its pixels in their smallest box.
    shape: height and width of the picture.
    stride: the longest side of a part.

  Returns:
    The parts from the border of the hole inward, so that each has known or finished pixels
    beside it; of equal depth, those come first that are two cells apart and do not see each
    other.
  """
  edges = [_edges(side, stride) for side in (hole.box.height, hole.box.width)]
  tops, lefts = edges[0][:-1], edges[1][:-1]
  full = np.logical_and.reduceat(np.logical_and.reduceat(hole.pixels, tops, 0), lefts, 1)
  depth = _depth(full, hole.box, shape)
  keys = sorted((int(depth[i, j]), i % 2, j % 2, i, j) for i, j in np.ndindex(*full.shape))
  return [part.trimmed() for *_, i, j in keys
          if (part := _cell(hole, edges, i, j)).pixels.any()]


def thin_parts(hole: Region, stride: int) -> list[Region]:
  """The parts of a long thin hole, as few as a walk along it finds.

  Args:
    hole: its pixels in their smallest box.
    stride: the longest side of a part.

  Returns:
    Every second part along the longer side of the box, then those between them, which see
    the first ones.
  """
  cell = max(1, stride // _PART_CELLS)
  tops, lefts = np.arange(0, hole.box.height, cell), np.arange(0, hole.box.width, cell)
  occupied = np.logical_or.reduceat(np.logical_or.reduceat(hole.pixels, tops, 0), lefts, 1)
  starts = np.argwhere(occupied)
  along = int(hole.box.width > hole.box.height)
  order = np.lexsort((starts[:, 1 - along], starts[:, along]))
  groups = group_boxes(np.concatenate([starts, starts + 1], 1), order, stride // cell)
  parts = [_union(hole, starts[group], cell) for group in groups]
  return parts[::2] + parts[1::2]


def _depth(full: np.ndarray, box: Box, shape: tuple[int, int]) -> np.ndarray:
  """Chessboard distance of cells to the next one that is not full; -1 where there is none.

  Args:
    full: bool [rows, columns], cells of `box` that are all hole. Behind the box is known
      picture, or, which does not count, the end of the picture.
    box: place of the cells.
    shape: height and width of the picture.
  """
  ends = ((box.top == 0, box.bottom == shape[0]), (box.left == 0, box.right == shape[1]))
  padded = np.pad(full, 1, constant_values=ends)
  if padded.all():
    return np.full(full.shape, -1)
  return np.asarray(ndimage.distance_transform_cdt(padded, 'chessboard')[1:-1, 1:-1])


def _edges(side: int, stride: int) -> np.ndarray:
  """Ends of as few equal cells of a side as are no longer than a stride."""
  count = math.ceil(side / stride)
  return np.arange(count + 1) * side // count


def _cell(hole: Region, edges: list[np.ndarray], i: int, j: int) -> Region:
  top, bottom = (int(edge) for edge in edges[0][i:i + 2])
  left, right = (int(edge) for edge in edges[1][j:j + 2])
  box = Box(hole.box.top + top, hole.box.left + left, hole.box.top + bottom, hole.box.left + right)
  return Region(box, hole.pixels[top:bottom, left:right])


def _union(hole: Region, cells: np.ndarray, side: int) -> Region:
  """What lies in some cells of a hole.

  Args:
    hole: the hole.
    cells: int [n, 2], rows and columns of the cells.
    side: of a cell.
  """
  first = cells.min(0)
  member = np.zeros(cells.max(0) + 1 - first, bool)
  member[tuple((cells - first).T)] = True
  top, left = (first * side).tolist()
  pixels = hole.pixels[top:top + len(member) * side, left:left + member.shape[1] * side]
  inside = member.repeat(side, 0).repeat(side, 1)[:pixels.shape[0], :pixels.shape[1]]
  box = Box(hole.box.top + top, hole.box.left + left,
            hole.box.top + top + pixels.shape[0], hole.box.left + left + pixels.shape[1])
  return Region(box, pixels & inside).trimmed()
