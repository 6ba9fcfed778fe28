"""Improved precision and recall of two sets of features (arXiv 1904.06991), in float64.

Kynkaanniemi et al. 2019, equations 1 and 2: a set's manifold is the union of balls around its
features, each of the radius of the distance to its third nearest neighbour in the set.
"""

from typing import NamedTuple

import numpy as np

from eval.metrics import distribution
from mat_jax.errors import UserError

NEIGHBOURS = 3


class Coverage(NamedTuple):
  """Which features lie in the manifold of the other set.

  Attributes:
    fake: bool [n], results in the manifold of the real images; their mean is the precision.
    real: bool [N], real images in the manifold of the results; their mean is the recall.
  """

  fake: np.ndarray
  real: np.ndarray


def coverage(real: np.ndarray, fake: np.ndarray) -> Coverage:
  """Computes what precision and recall count.

  Args:
    real: [N, d], N > 3.
    fake: [n, d], n > 3.

  Returns:
    A flag for every feature. Both grow with the size of the set whose manifold they look at:
    compare at equal numbers only.

  Raises:
    UserError: see `distribution`; and sets of three or fewer.
  """
  real, fake = distribution.check(real, fake)
  for name, x in (('real images', real), ('results', fake)):
    if len(x) <= NEIGHBOURS:
      raise UserError(f'precision and recall need more than {NEIGHBOURS} {name}, found {len(x)}')
  return Coverage(_is_inside(fake, real), _is_inside(real, fake))


def _is_inside(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Whether each point lies in a ball around one of the centres."""
  # The nearest neighbour in its own set is the feature itself.
  radii = np.concatenate([np.partition(_squares(centres[rows], centres), NEIGHBOURS, 1)[:, NEIGHBOURS]
                          for rows in distribution.blocks(len(centres))])
  return np.concatenate([(_squares(points[rows], centres) <= radii).any(1)
                         for rows in distribution.blocks(len(points))])


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Squared distances [n, m] of the rows of two matrices."""
  x, y = x.astype(np.float64), y.astype(np.float64)
  squares = (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)
  return np.maximum(squares, 0)
