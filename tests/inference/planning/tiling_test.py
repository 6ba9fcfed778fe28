import numpy as np
from PIL import Image, ImageDraw
import pytest

from mat_jax.inference.planning import tiling
from mat_jax.inference.planning.holes import Box, Region


def _line(points, width, shape=(300, 400)):
  image = Image.new('L', shape[::-1])
  ImageDraw.Draw(image).line(points, fill=255, width=width)
  return Region(Box(0, 0, *shape), np.array(image) > 0).trimmed()


def _check_parts(hole, parts, stride):
  """The parts hold every pixel of the hole once, and are no longer than the stride."""
  count = np.zeros(hole.pixels.shape, int)
  for part in parts:
    box = part.box
    count[box.top - hole.box.top:box.bottom - hole.box.top,
          box.left - hole.box.left:box.right - hole.box.left] += part.pixels
    assert box.longest <= stride and part.trimmed().box == box
  np.testing.assert_array_equal(count, hole.pixels)


@pytest.mark.parametrize('stride', [1, 7, 16, 48, 500])
@pytest.mark.parametrize('hole', [
    _line([(5, 5), (380, 290)], 5), _line([(5, 5), (380, 40), (20, 80), (390, 250)], 9),
    _line([(50, 0), (50, 299)], 90)])
def test_parts_hold_every_pixel_once(hole, stride):
  _check_parts(hole, tiling.thin_parts(hole, stride), stride)
  _check_parts(hole, tiling.solid_parts(hole, (300, 400), stride), stride)


def test_a_scratch_takes_few_tiles():
  assert len(tiling.thin_parts(_line([(0, 150), (399, 150)], 3), 50)) == 8 + 1
  assert len(tiling.thin_parts(_line([(0, 0), (299, 299)], 3), 60)) <= 7


def test_every_second_part_of_a_scratch_comes_first():
  parts = tiling.thin_parts(_line([(0, 150), (399, 150)], 3), 48)
  lefts = [part.box.left for part in parts]
  assert lefts[:5] == [0, 96, 192, 288, 384] and lefts[5:] == [48, 144, 240, 336]


@pytest.mark.parametrize('width,thin', [(3, True), (30, True), (36, False), (90, False)])
def test_thin_is_what_is_near_known_pixels(width, thin):
  assert tiling.is_thin(_line([(200, 0), (200, 299)], width), (300, 400), 64) == thin


def test_the_end_of_the_picture_is_not_known():
  hole = Region(Box(0, 0, 300, 20), np.ones((300, 20), bool))
  assert not tiling.is_thin(hole, (300, 400), 64)
  assert tiling.is_thin(Region(Box(0, 5, 300, 25), hole.pixels), (300, 400), 64)
  assert not tiling.is_thin(Region(Box(0, 0, 1, 400), np.ones((1, 400), bool)), (1, 400), 64)


def test_solid_parts_go_from_the_border_inward():
  parts = tiling.solid_parts(Region(Box(10, 10, 60, 60), np.ones((50, 50), bool)), (300, 400), 10)
  depths = [min(part.box.top - 10, part.box.left - 10, 60 - part.box.bottom, 60 - part.box.right)
            for part in parts]
  assert depths == sorted(depths) and depths[-1] == 20


def test_solid_parts_begin_away_from_the_end_of_the_picture():
  parts = tiling.solid_parts(Region(Box(0, 0, 300, 50), np.ones((300, 50), bool)), (300, 400), 50)
  assert len(parts) == 6
  hole = Region(Box(0, 0, 50, 100), np.ones((50, 100), bool))  # known at its right only
  assert [part.box.left for part in tiling.solid_parts(hole, (50, 400), 50)] == [50, 0]


def test_a_picture_of_hole_has_parts_as_well():
  hole = Region(Box(0, 0, 100, 100), np.ones((100, 100), bool))
  _check_parts(hole, tiling.solid_parts(hole, (100, 100), 48), 48)
