"""Groups of boxes that fit into a square together."""

from collections.abc import Sequence

import numpy as np
from scipy import spatial

from mat_jax.inference.planning.holes import Box


def group_boxes(boxes: np.ndarray, order: np.ndarray, limit: int) -> list[np.ndarray]:
  """Gathers boxes while the box round all of a group stays within a limit.

  One box after the other, in the order given, takes what is near it and not yet in a group,
  the nearest first. Whether two boxes get together thus depends on them and on what could
  share a group with them, and on nothing farther away.

  Args:
    boxes: int [n, 4], top, left, bottom, right.
    order: int [n], a permutation, the order in which boxes begin a group.
    limit: the longest side of a group of several, in pixels.

  Returns:
    Groups in the order in which they were begun, int [members] each, the first member
    being the one that began it. A box beyond the limit is a group of its own.
  """
  if not len(boxes):
    return []
  centers = (boxes[:, :2] + boxes[:, 2:]) / 2
  tree = spatial.KDTree(centers)
  free = np.ones(len(boxes), bool)
  groups = []
  for seed in order:
    if not free[seed]:
      continue
    near = np.sort(np.asarray(tree.query_ball_point(centers[seed], limit, p=np.inf), np.int64))
    near = near[free[near] & (near != seed)]
    distances = np.square(centers[near] - centers[seed]).sum(1)
    near = near[np.argsort(distances, kind='stable')]  # of equals the first in `boxes`
    group = np.concatenate([[seed], _fitting(boxes, seed, near, limit)])
    free[group] = False
    groups.append(group)
  return groups


def _fitting(boxes: np.ndarray, seed: int, near: np.ndarray, limit: int) -> np.ndarray:
  """Those of the candidates `near` that a group takes, which tries them in turn."""
  joint, taken = boxes[seed], [near[:0]]
  while len(near):
    starts = np.minimum(joint[:2], boxes[near, :2])
    stops = np.maximum(joint[2:], boxes[near, 2:])
    near = near[(stops - starts).max(1) <= limit]  # the group only grows: others never fit
    starts = np.minimum.accumulate(np.minimum(joint[:2], boxes[near, :2]), axis=0)
    stops = np.maximum.accumulate(np.maximum(joint[2:], boxes[near, 2:]), axis=0)
    count = np.count_nonzero((stops - starts).max(1, initial=0) <= limit)
    if count:
      joint = np.concatenate([starts[count - 1], stops[count - 1]])
      taken.append(near[:count])
    near = near[count:]
  return np.concatenate(taken)


def share_boxes(boxes: np.ndarray, places: Sequence[Box]) -> list[np.ndarray]:
  """Gives each box to the first place that it lies in.

  Args:
    boxes: int [n, 4], top, left, bottom, right.
    places: where boxes may lie; empty ones get none.

  Returns:
    For each place the boxes that are its own, int64, in the order of `boxes`.
  """
  free, shares = np.ones(len(boxes), bool), []
  tree = spatial.KDTree((boxes[:, :2] + boxes[:, 2:]) / 2)
  for place in places:
    if min(place.height, place.width) <= 0 or not len(boxes):
      shares.append(np.zeros(0, np.int64))
      continue
    center = (place.top + place.bottom) / 2, (place.left + place.right) / 2
    near = np.sort(np.asarray(tree.query_ball_point(center, place.longest / 2, np.inf), np.int64))
    inside = (boxes[near, :2] >= place[:2]).all(1) & (boxes[near, 2:] <= place[2:]).all(1)
    shares.append(near[inside & free[near]])
    free[shares[-1]] = False
  return shares
