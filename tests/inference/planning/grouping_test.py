import numpy as np
import pytest

from mat_jax.inference.planning.grouping import group_boxes, share_boxes
from mat_jax.inference.planning.holes import Box


def _boxes(seed, count, size):
  rng = np.random.default_rng(seed)
  starts = rng.integers(0, size, (count, 2))
  return np.concatenate([starts, starts + rng.integers(1, 9, (count, 2))], 1)


def _joint(boxes):
  return (boxes[:, 2:].max(0) - boxes[:, :2].min(0)).max()


@pytest.mark.parametrize('limit', [1, 8, 30, 1000])
def test_groups_are_a_partition_within_the_limit(limit):
  boxes = _boxes(0, 300, 400)
  groups = group_boxes(boxes, np.arange(300), limit)
  assert sorted(np.concatenate(groups).tolist()) == list(range(300))
  assert all(len(group) == 1 or _joint(boxes[group]) <= limit for group in groups)


def test_no_box_is_left_out_that_the_first_group_had_room_for():
  boxes = _boxes(1, 200, 100)
  first, *others = group_boxes(boxes, np.arange(200), 30)
  assert len(first) > 1
  for other in np.concatenate(others):
    assert _joint(boxes[[*first, other]]) > 30


def test_the_order_decides_who_begins():
  boxes = np.array([[0, 0, 1, 1], [0, 8, 1, 9], [0, 16, 1, 17]])
  assert [set(group.tolist()) for group in group_boxes(boxes, np.array([0, 1, 2]), 10)] == [
      {0, 1}, {2}]
  assert [set(group.tolist()) for group in group_boxes(boxes, np.array([2, 1, 0]), 10)] == [
      {1, 2}, {0}]


def test_the_nearest_box_is_taken_first():
  boxes = np.array([[0, 0, 1, 1], [0, 50, 1, 51], [0, 55, 1, 56], [0, 99, 1, 100]])
  groups = group_boxes(boxes, np.array([1, 0, 2, 3]), 52)
  assert [sorted(group.tolist()) for group in groups] == [[1, 2, 3], [0]]


def test_a_box_goes_to_the_first_place_that_holds_it():
  boxes = np.array([[0, 0, 2, 2], [3, 3, 6, 6], [9, 9, 12, 12]])
  places = [Box(5, 5, 4, 4), Box(-5, 0, 5, 10), Box(0, 0, 10, 10), Box(0, 0, 12, 12)]
  assert [share.tolist() for share in share_boxes(boxes, places)] == [[], [0], [1], [2]]


def test_nothing_gives_nothing():
  none = np.zeros((0, 4), np.int64)
  assert group_boxes(none, np.arange(0), 10) == []
  assert [len(share) for share in share_boxes(none, [Box(0, 0, 9, 9)])] == [0]
