"""Which windows can be filled at the same time."""

from collections.abc import Sequence
import itertools

from mat_jax.inference.planning.holes import Box


def number_waves(views: Sequence[Box], fills: Sequence[Box], cell: int) -> list[int]:
  """The first wave in which each window finds finished what comes before it.

  A window depends on another one when it sees what that one fills, or the other way round;
  of two such windows the first in the sequence is in an earlier wave.

  Args:
    views: what each window sees, in the order of filling.
    fills: box of what it fills, within its view.
    cell: side of the cells in which neighbours are looked up, about that of most views.

  Returns:
    The wave of each window, from 0. No two windows of a wave depend on each other.
  """
  waves: list[int] = []
  at_cell: dict[tuple[int, int], list[int]] = {}
  for i, (view, fill) in enumerate(zip(views, fills, strict=True)):
    cells = list(_cells(view, cell))
    near = {j for key in cells for j in at_cell.get(key, ())}
    waves.append(1 + max((waves[j] for j in near if view.intersects(fills[j])
                          or fill.intersects(views[j])), default=-1))
    for key in cells:
      at_cell.setdefault(key, []).append(i)
  return waves


def _cells(box: Box, cell: int) -> itertools.product:
  return itertools.product(range(box.top // cell, (box.bottom - 1) // cell + 1),
                           range(box.left // cell, (box.right - 1) // cell + 1))
