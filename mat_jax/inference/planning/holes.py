"""The connected holes of a mask, found in little memory.

`scipy.ndimage.label` would take four more bytes for every pixel of the picture, 1.6 GB for a scan
of 20,000 x 20,000. Here a mask becomes the runs of hole pixels in its rows, which are few, and
the connected components of runs that touch are the holes.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

_STRIP = 2**20  # pixels that are searched for runs at a time


class Box(NamedTuple):
  """Rows `top` to `bottom` and columns `left` to `right` of a picture, the ends excluded."""

  top: int
  left: int
  bottom: int
  right: int

  @property
  def height(self) -> int:
    """Number of rows."""
    return self.bottom - self.top

  @property
  def width(self) -> int:
    """Number of columns."""
    return self.right - self.left

  @property
  def longest(self) -> int:
    """The longer side."""
    return max(self.height, self.width)

  def intersects(self, other: 'Box') -> bool:
    """Whether a pixel lies in both."""
    return (self.top < other.bottom and other.top < self.bottom
            and self.left < other.right and other.left < self.right)


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
  """Some pixels of a picture.

  Attributes:
    box: where `pixels` lies.
    pixels: bool [box.height, box.width], True for the pixels meant.
  """

  box: Box
  pixels: np.ndarray

  def trimmed(self) -> 'Region':
    """The same pixels in the smallest box that holds them; at least one is True."""
    rows, columns = (np.flatnonzero(self.pixels.any(axis)) for axis in (1, 0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    return Region(Box(self.box.top + top, self.box.left + left,
                      self.box.top + bottom, self.box.left + right),
                  self.pixels[top:bottom, left:right])

  def union(self, other: 'Region') -> 'Region':
    """The pixels of both."""
    box = Box(*(min(pair) for pair in zip(self.box[:2], other.box[:2], strict=True)),
              *(max(pair) for pair in zip(self.box[2:], other.box[2:], strict=True)))
    pixels = np.zeros((box.height, box.width), bool)
    for part in (self, other):
      pixels[part.box.top - box.top:part.box.bottom - box.top,
             part.box.left - box.left:part.box.right - box.left] |= part.pixels
    return Region(box, pixels)


@dataclasses.dataclass(frozen=True, eq=False)
class Holes:
  """The holes of a mask, in the order of their first pixels.

  Attributes:
    boxes: int64 [holes, 4], top, left, bottom, right of each, as in `Box`.
    sizes: int64 [holes], their numbers of pixels.
  """

  boxes: np.ndarray
  sizes: np.ndarray
  _rows: np.ndarray  # of runs, hole by hole
  _starts: np.ndarray
  _stops: np.ndarray
  _offsets: np.ndarray  # [holes + 1], of the first run of a hole

  def __len__(self) -> int:
    return len(self.sizes)

  def region(self, members: np.ndarray) -> Region:
    """The pixels of some holes.

    Args:
      members: int [n], indices of holes, n >= 1.
    """
    boxes = self.boxes[members]
    box = Box(*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    changes = np.zeros((box.height, box.width + 1), np.int8)
    for member in members:
      runs = slice(self._offsets[member], self._offsets[member + 1])
      rows = self._rows[runs] - box.top
      changes[rows, self._starts[runs] - box.left] = 1
      changes[rows, self._stops[runs] - box.left] = -1  # no run begins where another one ends
    np.cumsum(changes, axis=1, out=changes)
    return Region(box, changes[:, :-1].view(bool))


def find_holes(hole: np.ndarray) -> Holes:
  """The connected components of a mask; pixels that touch at a corner are connected.

  Args:
    hole: bool [H, W], True in holes.
  """
  rows, starts, stops = _find_runs(hole)
  labels = _label_runs(rows, starts, stops, hole.shape[1])
  order = np.argsort(labels, kind='stable')
  rows, starts, stops, labels = rows[order], starts[order], stops[order], labels[order]
  first = np.flatnonzero(np.diff(labels, prepend=-1))
  offsets = np.append(first, len(labels))
  if not len(first):
    return Holes(np.zeros((0, 4), np.int64), np.zeros(0, np.int64), rows, starts, stops, offsets)
  boxes = np.stack([rows[first], np.minimum.reduceat(starts, first),
                    rows[offsets[1:] - 1] + 1, np.maximum.reduceat(stops, first)], axis=1)
  return Holes(boxes, np.add.reduceat(stops - starts, first), rows, starts, stops, offsets)


def _find_runs(hole: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Row, first column and end (excluded) of every run of True, int64, in raster order."""
  height, width = hole.shape
  step = max(1, _STRIP // max(width, 1))
  found = []
  for top in range(0, height, step):
    strip = hole[top:top + step]
    if not strip.any():
      continue
    # Some libraries make bool arrays whose True is another byte than 1.
    padded = np.zeros((len(strip), width + 2), bool)
    np.not_equal(strip.view(np.uint8), 0, out=padded[:, 1:-1])
    changes = np.flatnonzero(padded[:, 1:] != padded[:, :-1])  # starts and ends in turn
    rows, columns = np.divmod(changes, width + 1)
    found.append((rows[::2] + top, columns[::2], columns[1::2]))
  if not found:
    return tuple(np.zeros(0, np.int64) for _ in range(3))  # type: ignore[return-value]
  rows, starts, stops = (np.concatenate(parts) for parts in zip(*found, strict=True))
  return rows, starts, stops


def _label_runs(rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, width: int) -> np.ndarray:
  """Numbers runs by the hole that they belong to, in the order of the holes' first runs."""
  if not len(rows):
    return np.zeros(0, np.int64)
  # One number for a place in raster order. Runs of the next row that end at or after the start
  # of a run, and start at or before its end, touch it.
  pitch = width + 2
  low = np.searchsorted(rows * pitch + stops, (rows + 1) * pitch + starts, 'left')
  high = np.searchsorted(rows * pitch + starts, (rows + 1) * pitch + stops, 'right')
  counts = np.maximum(high - low, 0)
  above = np.repeat(np.arange(len(rows)), counts)
  below = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + low[above]
  graph = sparse.coo_array((np.ones(len(above), np.int8), (above, below)),
                           shape=(len(rows), len(rows)))
  _, labels = csgraph.connected_components(graph, directed=False)
  _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
  rank = np.empty(len(first), np.int64)
  rank[np.argsort(first)] = np.arange(len(first))
  return rank[labels]
