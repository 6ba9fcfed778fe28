import numpy as np

from mat_jax.inference.planning.holes import Box, Region
from mat_jax.inference.planning.windows import Window, place_key, window_seed

_REGION = Region(Box(3, 4, 5, 7), np.array([[1, 0, 1], [0, 1, 0]], bool))


def test_keys_are_the_same_everywhere():
  assert place_key(Window(0, 0, 64, 64, 'native', _REGION)) == 1690200024
  assert place_key(Window(-50, 7, 400, 64, 'coarse', _REGION)) == 395710884
  assert window_seed(7, Window(0, 0, 64, 64, 'native', _REGION)) == 2864791242


def test_keys_depend_on_the_place_alone():
  window = Window(10, 20, 64, 64, 'native', _REGION)
  assert place_key(window) == place_key(Window(10, 20, 64, 32, 'tile', _REGION))
  others = [Window(20, 10, 64, 64, 'native', _REGION), Window(10, 20, 65, 64, 'native', _REGION)]
  assert len({place_key(other) for other in [window, *others]}) == 3


def test_seeds_are_numbers_of_32_bits_and_all_different():
  windows = [Window(top, left, 64, 64, 'tile', _REGION) for top in range(9) for left in range(9)]
  seeds = [window_seed(seed, window) for window in windows for seed in range(9)]
  assert len(set(seeds)) == len(seeds)
  assert min(seeds) >= 0 and 2**31 < max(seeds) < 2**32
  assert window_seed(-1, windows[0]) == window_seed(2**32 - 1, windows[0])


def test_the_hole_is_placed_in_the_window():
  window = Window(-2, 1, 8, 4, 'resized', _REGION)
  expected = np.zeros((8, 8), bool)
  expected[[5, 5, 6], [3, 5, 4]] = True
  np.testing.assert_array_equal(window.hole_in_window(), expected)
  assert window.enlarge == 2 and window.box == Box(-2, 1, 6, 9)
