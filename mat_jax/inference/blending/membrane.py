"""Values on the border of a hole, spread into it as a membrane would hang between them.

A membrane is the smoothest surface through given border values: it solves Laplace's equation
(Pérez, Gangnet & Blake, "Poisson Image Editing", 2003). Far from the border it hardly changes
from pixel to pixel. So only pixels near the border are unknowns of their own; deeper in the hole
the grid of unknowns gets wider and the other pixels are interpolated, as in a quadtree (Agarwala,
"Efficient Gradient-Domain Compositing Using Quadtrees", 2007).
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import linalg

# The grid may be `n` pixels wide `_DEPTH * n` pixels away from the border. With 2 the error stays
# below 1 % of the range of the border's values, even if these are noise.
_DEPTH = 2


def membrane(difference: np.ndarray, ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
  """Spreads a difference, known on a ring around a hole, into the hole.

  Edges of the array, and pixels that are neither ring nor hole, pull at nothing (a natural
  boundary). Parts of a hole that no ring pixel touches stay 0.

  Args:
    difference: float [H, W, C] of any range; read on the ring only.
    ring: bool [H, W], where the difference is known; what is hole as well counts as hole.
    hole: bool [H, W].

  Returns:
    float32 [H, W, C]: the difference on the ring, the membrane in the hole, 0 elsewhere. It
    stays within the range of the difference on the ring.
  """
  ring = ring & ~hole
  result = np.where(ring[..., None], difference, 0).astype(np.float32)
  inside = _touched(hole, ring)
  if not inside.any():
    return result
  window = tuple(slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2) for found in (
      np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))))
  values, ring, inside = result[window], ring[window], inside[window]
  border = values[ring & ndimage.binary_dilation(inside)]
  # Where the grid gets wider, interpolation may overshoot by a trace.
  values[inside] = np.clip(_solve(values, ring, inside)[inside], border.min(0), border.max(0))
  return result


def _touched(hole: np.ndarray, ring: np.ndarray) -> np.ndarray:
  """The connected parts of a hole that have a neighbour on the ring."""
  labels, count = ndimage.label(hole)
  touched = np.zeros(count + 1, bool)
  touched[labels[ndimage.binary_dilation(ring)]] = True
  touched[0] = False
  return touched[labels]


class _Links(NamedTuple):
  """Pairs of unknowns that pull at each other, all the same distance apart.

  Attributes:
    first: flat indices of pixels, [N].
    second: flat indices of pixels, [N].
    weight: how much they pull, [N].
  """

  first: np.ndarray
  second: np.ndarray
  weight: np.ndarray


def _solve(values: np.ndarray, ring: np.ndarray, inside: np.ndarray) -> np.ndarray:
  """The membrane, float64 [H, W, C], at the pixels of `inside`; anything elsewhere."""
  cells = _cells(inside)
  links = _links(inside, cells)
  pulls, pull_count = _border_pulls(values, ring, inside)
  first, second, weight = (np.concatenate(part) for part in zip(*links, strict=True))
  sums = pull_count.ravel() + sum(np.bincount(end, weight, inside.size) for end in (first, second))
  nodes = np.flatnonzero(sums)
  index = np.zeros(inside.size, np.int32)
  index[nodes] = np.arange(len(nodes), dtype=np.int32)
  off = sparse.coo_array((weight, (index[first], index[second])), (len(nodes),) * 2).tocsr()
  matrix = sparse.diags_array(sums[nodes], format='csr') - off - off.T
  free = _interpolation(links, sums > 0, index, len(nodes))
  # The matrix is symmetric and positive definite: no pivoting, and an order that knows it.
  solver = linalg.splu((free.T @ matrix @ free).tocsc(), permc_spec='MMD_AT_PLUS_A',
                       diag_pivot_thresh=0, options={'SymmetricMode': True})
  solution = np.zeros((inside.size, values.shape[2]))
  solution[nodes] = free @ solver.solve(free.T @ pulls.reshape(solution.shape)[nodes])
  filled = solution.reshape(values.shape)
  _fill_cells(filled, cells)
  return filled


def _cells(inside: np.ndarray) -> list[np.ndarray]:
  """Where the grid may be 2, 4, 8 ... pixels wide.

  Returns:
    For each width a bool [rows, columns]: whether the cell between the pixels
    (row * width, column * width) and ((row + 1) * width, (column + 1) * width) lies deep
    enough in the hole. Then its four cells of half the width do as well.
  """
  depth = ndimage.distance_transform_cdt(np.pad(inside, 1), 'chessboard')[1:-1, 1:-1]
  cells: list[np.ndarray] = []
  width = 2
  while True:
    deep = depth[::width, ::width] > _DEPTH * width
    deep = deep[:-1, :-1] & deep[1:, :-1] & deep[:-1, 1:] & deep[1:, 1:]
    if not deep.any():
      return cells
    cells.append(deep)
    width *= 2


def _links(inside: np.ndarray, cells: list[np.ndarray]) -> list[_Links]:
  """The links of grids 1, 2, 4 ... pixels wide, each where no wider one is allowed.

  The energy of a membrane is the sum of its squared differences along links; in two dimensions
  it does not depend on the width of a grid. A link belongs to the two cells at its sides, half
  of its weight to each.
  """
  indices = np.arange(inside.size, dtype=np.int32).reshape(inside.shape)
  links = []
  for level, wide in enumerate([None, *cells]):
    grid, width = indices[::2**level, ::2**level], 2**level
    used = np.ones(np.array(grid.shape) - 1, bool) if wide is None else wide.copy()
    if level < len(cells):
      wider = cells[level].repeat(2, axis=0).repeat(2, axis=1)
      used[:wider.shape[0], :wider.shape[1]] &= ~wider
    # Links along the edge of the array are whole ones, as others along the border are.
    used = np.pad(used, 1, constant_values=wide is None)
    linked = inside[::width, ::width]
    for turn in (np.asarray, np.transpose):
      grid_, used_, linked_ = turn(grid), turn(used), turn(linked)
      weight = 0.5 * used_[:-1, 1:-1] + 0.5 * used_[1:, 1:-1]
      chosen = (weight > 0) & linked_[:, :-1] & linked_[:, 1:]
      links.append(_Links(grid_[:, :-1][chosen], grid_[:, 1:][chosen], weight[chosen]))
  return links


def _border_pulls(values: np.ndarray, ring: np.ndarray,
                  inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Sum, float64 [H, W, C], and number [H, W] of the ring pixels next to a pixel of the hole."""
  pulls, count = np.zeros(values.shape), np.zeros(ring.shape)
  head, tail, whole = slice(None, -1), slice(1, None), slice(None)
  for here, there in (((whole, head), (whole, tail)), ((head, whole), (tail, whole))):
    for one, other in ((here, there), (there, here)):
      given = inside[one] & ring[other]
      count[one] += given
      pulls[one][given] += values[other][given]
  return pulls, count


def _interpolation(links: list[_Links], is_node: np.ndarray, index: np.ndarray,
                   count: int) -> sparse.csr_array:
  """Where a wide grid meets a narrower one, nodes amid its links are the mean of their ends.

  Args:
    links: of all widths.
    is_node: bool [H * W].
    index: int [H * W], the number of a node.
    count: number of nodes.

  Returns:
    Matrix [count, unknowns] from what is to be solved for to all nodes.
  """
  ends, middles = [], []
  for first, second, _ in links[2:]:  # the first two are of one pixel's width
    middle = (first + second) // 2
    hanging = is_node[middle]
    middles.append(index[middle[hanging]])
    ends.append(index[np.stack([first[hanging], second[hanging]])])
  middle = np.concatenate([np.empty(0, np.int32), *middles])
  first, second = np.concatenate([np.empty((2, 0), np.int32), *ends], axis=1)
  own = np.setdiff1d(np.arange(count), middle)
  rows = np.concatenate([own, middle, middle])
  weights = np.concatenate([np.ones(len(own)), np.full(2 * len(middle), 0.5)])
  step = sparse.coo_array((weights, (rows, np.concatenate([own, first, second]))),
                          (count, count)).tocsr()
  # An end may itself be amid a link that is wider still.
  full = step[:, own]
  for _ in links[4::2]:
    full = step @ full
  return full


def _fill_cells(solution: np.ndarray, cells: list[np.ndarray]) -> None:
  """Interpolates between the corners of cells, in place, from the widest to the narrowest."""
  for level, wide in reversed(list(enumerate(cells))):
    grid = solution[::2**level, ::2**level]
    grid = grid[:2 * wide.shape[0] + 1, :2 * wide.shape[1] + 1]
    rows, columns = np.nonzero(wide)
    up, left = 2 * rows, 2 * columns
    top_left, top_right, bottom_left, bottom_right = corners = [
        grid[up + down, left + right] for down in (0, 2) for right in (0, 2)]
    grid[up, left + 1] = (top_left + top_right) / 2
    grid[up + 2, left + 1] = (bottom_left + bottom_right) / 2
    grid[up + 1, left] = (top_left + bottom_left) / 2
    grid[up + 1, left + 2] = (top_right + bottom_right) / 2
    grid[up + 1, left + 1] = sum(corners) / 4
