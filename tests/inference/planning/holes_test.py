import numpy as np
from PIL import Image
import pytest
from scipy import ndimage

from mat_jax.inference.planning import holes as holes_module
from mat_jax.inference.planning.holes import Box, Region, find_holes


def _check(hole):
  """The holes are those that `scipy.ndimage.label` finds, in its order."""
  labels, count = ndimage.label(hole, np.ones((3, 3)))
  holes = find_holes(hole)
  assert len(holes) == count
  for i in range(count):
    expected = Region(Box(0, 0, *hole.shape), labels == i + 1).trimmed()
    found = holes.region(np.array([i]))
    assert found.box == expected.box == tuple(holes.boxes[i])
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert holes.sizes[i] == expected.pixels.sum()


@pytest.mark.parametrize('shape', [(1, 1), (1, 60), (60, 1), (40, 50)])
@pytest.mark.parametrize('share', [0, 0.05, 0.3, 0.6, 1])
def test_holes_are_the_connected_components(shape, share):
  _check(np.random.default_rng(0).random(shape) < share)


def test_holes_are_found_across_strips(monkeypatch):
  monkeypatch.setattr(holes_module, '_STRIP', 150)  # three rows at a time
  _check(np.random.default_rng(1).random((40, 50)) < 0.3)


def test_arms_that_meet_below_are_one_hole():
  hole = np.zeros((9, 15), bool)
  hole[:, ::2] = True
  hole[8] = True
  hole[0, 6] = hole[:8, 10] = False
  assert len(find_holes(hole)) == 1
  _check(hole)


def test_masks_of_pillow_have_another_true():
  hole = np.array(Image.new('1', (5, 4), 1))
  assert hole.view(np.uint8).max() == 255, 'or this test tests nothing'
  assert find_holes(hole).sizes.tolist() == [20]


def test_several_holes_leave_out_what_is_between_them():
  hole = np.zeros((10, 10), bool)
  hole[1, 1:3] = hole[1, 5] = hole[8, 8] = True
  region = find_holes(hole).region(np.array([0, 2]))
  assert region.box == Box(1, 1, 9, 9)
  hole[1, 5] = False
  np.testing.assert_array_equal(region.pixels, hole[1:9, 1:9])


def test_a_union_holds_the_pixels_of_both():
  ones = np.ones((2, 3), bool)
  union = Region(Box(0, 1, 2, 4), ones).union(Region(Box(1, 3, 3, 6), ones))
  assert union.box == Box(0, 1, 3, 6)
  np.testing.assert_array_equal(union.pixels, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
