import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from mat_jax.errors import UserError
from mat_jax.inference.planning.plan import plan

R = 64
SIZES = [(1, 1), (1, 4000), (4000, 1), (R - 1, R - 1), (R + 1, R + 1), (40, R + 1), (150, 90),
         (230, 310)]


def _square_around(hole):
  """Top, left and side: the hole with context, at least R, inside the picture if it fits."""
  spans = [np.flatnonzero(hole.any(axis=axis))[[0, -1]] + (0, 1) for axis in (1, 0)]
  longest, longer_side = max(stop - start for start, stop in spans), max(hole.shape)
  side = max(min(max(math.ceil(1.5 * longest), min(R, longer_side)), longer_side), longest)
  corner = [(size - side) // 2 if side >= size else min(max((sum(span) - side) // 2, 0), size - side)
            for span, size in zip(spans, hole.shape, strict=True)]
  return (*corner, side)


def _random_hole(seed, shape):
  """Rectangles, lines and specks, more or fewer of them."""
  rng = np.random.default_rng(seed)
  hole = np.zeros(shape, bool)
  for size, count in ((4, 6), (max(shape) // 3, 2), (max(shape), seed % 2)):
    for _ in range(rng.integers(0, count + 1)):
      top, left = (int(rng.integers(0, side)) for side in shape)
      height, width = rng.integers(1, size + 2, 2)
      if rng.random() < 0.3:
        height = 2
      hole[top:top + height, left:left + width] = True
  return hole


def _rectangles(shape, *boxes):
  hole = np.zeros(shape, bool)
  for top, left, height, width in boxes:
    hole[top:top + height, left:left + width] = True
  return hole


def _filled(window, shape):
  filled = np.zeros(shape, bool)
  box = window.hole.box
  filled[box.top:box.bottom, box.left:box.right] = window.hole.pixels
  return filled


def _seen(window, shape):
  seen = np.zeros(shape, bool)
  box = window.box
  seen[max(box.top, 0):box.bottom, max(box.left, 0):box.right] = True
  return seen


def _places(found):
  """What the windows of a plan are, to compare plans by."""
  return [(window, window.hole.box, window.hole.pixels.tobytes()) for window in found.windows]


def _check_coverage(found, hole):
  """Every pixel of the hole is filled once, after coarse windows, and no other one ever."""
  final, coarse = np.zeros(hole.shape, int), np.zeros(hole.shape, bool)
  for window in found.windows:
    filled = _filled(window, hole.shape)
    assert filled.any() and not (filled & ~_seen(window, hole.shape)).any()
    if window.kind == 'coarse':
      assert not final[filled].any()
      coarse |= filled
    else:
      final += filled
  np.testing.assert_array_equal(final, hole)
  assert not (coarse & ~hole).any()


def _check_waves(found, shape):
  for wave in found.waves:
    seen = [_seen(window, shape) for window in wave]
    filled = [_filled(window, shape) for window in wave]
    for i, j in itertools.permutations(range(len(wave)), 2):
      assert not (seen[i] & filled[j]).any()


def _check_windows(found, shape, max_enlarge):
  """Windows have the side that their kind says, stay inside, and are reported."""
  factors = {entry.box: entry.factor for entry in found.enlargements}
  for window in found.windows:
    if window.kind in ('native', 'tile'):
      assert window.side == R
    assert window.side <= max(shape)
    for start, size in ((window.top, shape[0]), (window.left, shape[1])):
      assert 0 <= start <= size - window.side or start == (size - window.side) // 2 < 0
    if window.enlarge > 1:
      assert factors[window.hole.box] == window.enlarge
    if window.enlarge > max_enlarge:
      box = window.hole.box
      place = f'x {box.left}..{box.right - 1}, y {box.top}..{box.bottom - 1} '
      assert any(place in notice and f' {window.enlarge:.1f} times' in notice
                 for notice in found.notices)


@pytest.mark.parametrize('shape', SIZES)
@pytest.mark.parametrize('strategy', ['auto', 'tile', 'resize'])
def test_plans_of_random_holes(shape, strategy):
  for seed in range(5):
    hole = _random_hole(seed, shape)
    found = plan(hole, R, strategy=strategy, max_enlarge=1.5)
    _check_coverage(found, hole)
    _check_waves(found, shape)
    _check_windows(found, shape, 1.5)
    assert _places(found) == _places(plan(hole, R, strategy=strategy, max_enlarge=1.5))


@pytest.mark.parametrize('shape', SIZES)
def test_all_of_a_picture_can_be_hole(shape):
  hole = np.ones(shape, bool)
  found = plan(hole, R)
  _check_coverage(found, hole)
  _check_waves(found, shape)
  _check_windows(found, shape, 4)
  assert 'keeps nothing' in found.notices[0]


@pytest.mark.parametrize('shape', [shape for shape in SIZES if max(shape) <= R] + [(20, R), (R, R)])
@pytest.mark.parametrize('strategy', ['auto', 'tile', 'resize', 'crop'])
def test_a_picture_that_the_network_sees_at_once_has_one_window(shape, strategy):
  for seed in range(10):
    hole = _random_hole(seed, shape)
    if hole.any():
      window, = plan(hole, R, strategy=strategy).windows
      assert (window.top, window.left, window.side) == _square_around(hole)
      np.testing.assert_array_equal(_filled(window, shape), hole)
      assert window.kind == ('native' if max(shape) == R else 'resized')


def test_the_window_of_one_hole_is_the_square_around_it():
  rng = np.random.default_rng(0)
  for _ in range(50):
    shape = tuple(rng.integers(1, 300, 2).tolist())
    top, left = (int(rng.integers(0, side)) for side in shape)
    hole = _rectangles(shape, (top, left, *rng.integers(1, 200, 2)))
    window, = plan(hole, R, strategy='resize').windows
    assert (window.top, window.left, window.side) == _square_around(hole)


@pytest.mark.parametrize('first,second', [
    ((20, 20, 10, 12), (350, 420, 30, 20)), ((0, 0, 100, 90), (300, 400, 95, 80)),
    ((10, 10, 4, 300), (300, 200, 150, 150))])
def test_distant_holes_get_the_windows_that_each_gets_alone(first, second):
  shape = (700, 900)
  both = plan(_rectangles(shape, first, second), R)
  alone = [plan(_rectangles(shape, hole), R) for hole in (first, second)]
  assert sorted(map(str, _places(both))) == sorted(map(str, _places(alone[0]) + _places(alone[1])))
  assert len(both.waves) == max(len(found.waves) for found in alone)
  assert set(both.enlargements) == set(alone[0].enlargements + alone[1].enlargements)


def test_near_holes_share_a_window_and_distant_ones_a_wave():
  hole = _rectangles((300, 300), (10, 10, 5, 5), (30, 30, 5, 5), (200, 200, 5, 5))
  found = plan(hole, R)
  assert [[window.hole.pixels.sum() for window in wave] for wave in found.waves] == [[50, 25]]


def test_the_largest_hole_is_first_where_windows_overlap():
  hole = _rectangles((300, 300), (100, 100, 5, 5), (90, 125, 20, 20))
  found = plan(hole, R)
  assert [[window.hole.pixels.sum() for window in wave] for wave in found.waves] == [[400], [25]]


def test_thin_damage_is_tiled_at_once():
  for shape, hole in (((300, 400), (150, 0, 4, 400)), ((400, 300), (0, 150, 400, 30))):
    for strategy in ('auto', 'tile'):
      found = plan(_rectangles(shape, hole), R, strategy=strategy)
      assert {window.kind for window in found.windows} == {'tile'}
      assert len(found.waves) == 2 and len(found.windows) == 9
      assert not found.notices and not found.enlargements


def test_a_hole_of_moderate_size_is_enlarged_and_a_large_one_tiled():
  moderate = _rectangles((300, 400), (100, 100, 80, 80))
  found = plan(moderate, R)
  assert [window.kind for window in found.windows] == ['resized'] and not found.notices
  assert found.enlargements == (((100, 100, 180, 180), 120 / R, 0),)
  large = plan(moderate, R, max_enlarge=1.8)
  assert [window.kind for window in large.waves[0]] == ['coarse']
  assert [window.kind for wave in large.waves[1:] for window in wave] == ['tile'] * 4
  assert large.notices == (
      'the hole at x 100..179, y 100..179 is filled from a picture shrunk 1.9 times, and then '
      'again in 4 tiles at full scale, which may not agree on large shapes',)


def test_tiles_always_have_context():
  hole = _rectangles((500, 500), (100, 100, 300, 290))
  tiles = [window for window in plan(hole, R).windows if window.kind == 'tile']
  for window in tiles:
    rows, columns = (np.flatnonzero(window.hole_in_window().any(axis)) for axis in (1, 0))
    for indices in (rows, columns):
      assert indices[0] >= R // 8 and indices[-1] < R - R // 8
  assert len(tiles) == math.ceil(300 / 48) * math.ceil(290 / 48)


def test_tiles_of_the_middle_see_finished_ones():
  hole = _rectangles((500, 500), (100, 100, 240, 240))
  waves = plan(hole, R).waves
  done = ~hole
  for wave in waves[1:]:
    for window in wave:
      finished_around = _seen(window, hole.shape) & done
      assert ndimage.binary_dilation(_filled(window, hole.shape)).astype(int)[finished_around].any()
    done = done | np.any([_filled(window, hole.shape) for window in wave], 0)


def test_tiles_of_a_large_hole_run_side_by_side():
  found = plan(_rectangles((700, 700), (100, 100, 480, 480)), R)
  assert sum(map(len, found.waves[1:])) == 100
  assert len(found.waves) <= 1 + 5 * 4, 'four at most for each of the five rings of tiles'


def test_specks_in_a_tile_are_filled_along_with_it():
  hole = _rectangles((300, 400), (150, 0, 10, 400), (140, 60, 3, 3), (162, 300, 2, 2))
  assert {window.kind for window in plan(hole, R).windows} == {'tile'}
  _check_coverage(plan(hole, R), hole)


def test_crop_stays_at_native_scale_or_fails():
  found = plan(_rectangles((300, 400), (100, 100, 60, 10)), R, strategy='crop')
  assert [(window.side, window.kind) for window in found.windows] == [(R, 'native')]
  with pytest.raises(UserError, match='x 100..109, y 100..164 is 10 x 65 pixels; .* auto, tile'):
    plan(_rectangles((300, 400), (100, 100, 65, 10)), R, strategy='crop')


def test_without_a_hole_there_is_nothing_to_do():
  found = plan(np.zeros((30, 40), bool), R)
  assert found.waves == () and found.enlargements == () and 'no hole' in found.notices[0]
  assert plan(np.zeros((0, 0), bool), R).waves == ()


@pytest.mark.parametrize('options,message', [
    ({'strategy': 'best'}, "strategy is 'best'; choose"),
    ({'context': 0.5}, 'context is 0.5; give'),
    ({'max_enlarge': math.nan}, 'max_enlarge is nan'), ({'overlap': 1}, 'overlap is 1; give')])
def test_options_out_of_range_are_named(options, message):
  with pytest.raises(UserError, match=message):
    plan(np.ones((9, 9), bool), R, **options)


def test_wrong_arrays_are_no_masks():
  with pytest.raises(ValueError, match=r'uint8 \(9, 9\)'):
    plan(np.ones((9, 9), np.uint8), R)


def test_thousands_of_specks_share_windows_and_waves():
  rng = np.random.default_rng(0)
  hole = np.zeros((2000, 2000), bool)
  for top, left in rng.integers(0, 1990, (2000, 2)):
    hole[top:top + rng.integers(1, 9), left:left + rng.integers(1, 9)] = True
  found = plan(hole, 256)
  assert sum(int(window.hole.pixels.sum()) for window in found.windows) == hole.sum()
  assert len(found.windows) < 250 and len(found.waves) < 15
