"""Square crops around a head."""

import itertools

import numpy as np
from PIL import Image
import pytest

from input_pipeline.preparing import crops
from input_pipeline.preparing.heads import Head
from mat_jax.runtime import images

HEAD = Head(150, 100, 30)


def test_top_is_what_the_pipeline_cuts():
  rng = np.random.default_rng(0)
  for size in ((60, 80), (80, 60), (50, 50)):
    image = Image.fromarray(rng.integers(256, size=(*size[::-1], 3), dtype=np.uint8))
    box = crops.crop_box('top', size, HEAD)
    cut = image.crop(box).resize((24, 24), images.RESAMPLING)
    np.testing.assert_array_equal(np.asarray(cut), images.square(image, 24, 'top'))


@pytest.mark.parametrize('kind', ['shoulders', 'head', 'aside'])
def test_a_crop_is_a_square_with_the_whole_head(kind):
  left, top, right, bottom = crops.crop_box(kind, (300, 400), HEAD)
  assert right - left == bottom - top
  assert left <= 120 and right >= 180 and top <= 64 and bottom >= 136


def test_the_head_is_tighter_than_the_shoulders_and_aside_is_not_in_the_middle():
  boxes = {kind: crops.crop_box(kind, (300, 400), HEAD) for kind in crops.KINDS}
  sides = {kind: box[2] - box[0] for kind, box in boxes.items()}
  assert sides['head'] < sides['aside'] < sides['shoulders'] < sides['top']
  middle = {kind: (HEAD.x - box[0]) / sides[kind] for kind, box in boxes.items()}
  assert middle['head'] == middle['shoulders'] == 0.5 and middle['aside'] < 0.4


def test_crops_stay_within_the_picture():
  sizes = ((40, 60), (60, 40), (33, 33))
  for kind, size in itertools.product(crops.KINDS, sizes):
    for x, y, radius in itertools.product((0, 20, size[0]), (0, 15, size[1]), (1, 8, 50)):
      left, top, right, bottom = crops.crop_box(kind, size, Head(x, y, radius), min_side=16)
      assert 0 <= left and right <= size[0] and 0 <= top and bottom <= size[1]
      assert 16 <= right - left == bottom - top
  assert crops.crop_box('head', (40, 60), Head(20, 20, 5), min_side=100) == (0, 2, 40, 42)
