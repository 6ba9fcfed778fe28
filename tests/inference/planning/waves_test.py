from mat_jax.inference.planning.holes import Box
from mat_jax.inference.planning.waves import number_waves


def _square(top, left, side):
  return Box(top, left, top + side, left + side)


def test_a_window_waits_for_what_it_sees_and_for_who_sees_it():
  views = [_square(0, 0, 40), _square(0, 30, 10), _square(0, 100, 40), _square(0, 105, 40)]
  fills = [_square(0, 0, 35), _square(8, 38, 2), _square(0, 120, 10), _square(0, 110, 2)]
  assert number_waves(views, fills, 16) == [0, 1, 0, 1]


def test_views_that_overlap_where_nobody_fills_are_independent():
  views = [_square(0, 0, 40), _square(0, 20, 40), _square(0, 40, 40)]
  fills = [_square(10, 10, 10), _square(10, 40, 10), _square(10, 60, 10)]
  assert number_waves(views, fills, 40) == [0, 0, 1]


def test_a_wave_comes_after_all_that_it_depends_on():
  views = [_square(0, 10 * i, 20) for i in range(4)]
  assert number_waves(views, views, 7) == [0, 1, 2, 3]
  assert number_waves(views[::2], views[::2], 7) == [0, 0]


def test_places_may_be_negative():
  assert number_waves([_square(-30, -30, 40)] * 2, [_square(0, 0, 5)] * 2, 16) == [0, 1]
  assert number_waves([], [], 16) == []
