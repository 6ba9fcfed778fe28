import numpy as np
import pytest

from mat_jax.inference.blending.averages import average_over


def test_pixels_outside_of_the_area_do_not_count():
  rng = np.random.default_rng(0)
  area = rng.random((20, 30)) < 0.5
  picture = np.where(area[..., None], [2.0, -1.0, 0.5], 100)
  average, coverage = average_over(picture, area, 2.0)
  np.testing.assert_allclose(average, np.broadcast_to([2, -1, 0.5], picture.shape), rtol=1e-5)
  assert coverage.shape == (20, 30) and 0.1 < coverage.min() and coverage.max() < 0.9


def test_weights_fall_with_the_distance_and_end():
  picture = np.zeros((61, 61, 1))
  picture[30, 30] = 1
  average, coverage = average_over(picture, np.ones((61, 61), bool), 5.0)
  line = average[30, :, 0]
  assert line[35] / line[30] == pytest.approx(np.exp(-0.5), rel=1e-3)
  assert line[30 + 15] > 0 and not line[30 + 16:].any()
  assert coverage[30, 30] == pytest.approx(1, abs=1e-5) and coverage[30, 0] < 0.6


def test_far_from_the_area_there_is_nothing():
  area = np.zeros((5, 40), bool)
  area[:, 0] = True
  average, coverage = average_over(np.ones((5, 40, 3)), area, 2.0)
  assert not average[:, 10:].any() and not coverage[:, 10:].any()
