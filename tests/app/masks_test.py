from fractions import Fraction

import numpy as np
import pytest

from mat_jax.app import masks
from mat_jax.errors import UserError


def _overlapping(small, large, place):
  """The intervals of `small` that interval number `place` of `large` shares some length with."""
  side = Fraction(large, small)
  return [i for i in range(small) if i * side < place + 1 and (i + 1) * side > place]


@pytest.mark.parametrize('small,large', [((3, 4), (7, 9)), ((5, 5), (5, 12)), ((1, 1), (6, 1))])
def test_every_pixel_under_a_marked_one_is_marked_and_no_other(small, large):
  area = np.random.default_rng(1).random(small) < 0.4
  found = masks.scale_back(area, large[::-1])
  assert found.shape == large
  for y in range(large[0]):
    for x in range(large[1]):
      under = area[np.ix_(_overlapping(small[0], large[0], y), _overlapping(small[1], large[1], x))]
      assert found[y, x] == under.any(), (y, x)


def test_an_area_is_shown_wherever_it_is():
  area = np.zeros((100, 70), bool)
  area[99, 69] = area[50, 3] = True
  shown = masks.shrink(area, (7, 10))
  assert np.argwhere(shown).tolist() == [[5, 0], [9, 6]]


def test_a_light_touch_counts_on_any_layer():
  layers = [np.zeros((4, 6, 4), np.uint8) for _ in range(2)]
  layers[0][1, 2, 3] = 1
  layers[1][3, 5] = 255
  layers[1][0, 0, :3] = 255  # a colour that is fully transparent
  assert np.argwhere(masks.touched(layers, (6, 4))).tolist() == [[1, 2], [3, 5]]
  assert not masks.touched([], (6, 4)).any()


def test_a_drawing_of_another_preview_is_refused():
  with pytest.raises(UserError, match='the drawing is 6 x 4, the preview 5 x 4'):
    masks.touched([np.zeros((4, 6, 4), np.uint8)], (5, 4))
