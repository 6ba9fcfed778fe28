import numpy as np
import pytest
from scipy import ndimage

from mat_jax.inference.blending.grain import match_grain

_SIZE = 128


@pytest.fixture(scope='module')
def masks():
  """A ring 24 pixels wide, and a round hole."""
  distance = np.hypot(*(np.indices((_SIZE, _SIZE)) - _SIZE / 2))
  return (distance >= 32) & (distance < 56), distance < 32


def _grain(deviation, blur=0.0, seed=1):
  noise = np.random.default_rng(seed).normal(size=(_SIZE, _SIZE, 3))
  noise = ndimage.gaussian_filter(noise, (blur, blur, 0)) if blur else noise
  return deviation * noise / noise.std()


def _lag_one(values, area, axis):
  """Correlation of neighbours."""
  values, area = np.moveaxis(values, axis, 0), np.moveaxis(area, axis, 0)
  both = area[1:] & area[:-1]
  return np.mean((values[1:] * values[:-1])[both]) / np.mean(values[area] ** 2)


@pytest.mark.parametrize('edge', [0, 60])
@pytest.mark.parametrize('deviation,blur', [(3.0, 0.0), (8.0, 0.5)])
def test_a_flat_fill_gets_the_grain_of_the_ring(masks, deviation, blur, edge):
  ring, hole = masks
  flat = np.full((_SIZE, _SIZE, 3), 100.0)
  flat[:, _SIZE // 2:] += edge
  grain = _grain(deviation, blur)
  added = match_grain(flat, flat + grain, ring, hole, seed=0) - flat
  for channel in range(3):
    assert added[hole][:, channel].std() == pytest.approx(deviation, rel=0.15)
    for axis in (0, 1):
      whole = np.ones_like(hole)
      assert _lag_one(added[..., channel], hole, axis) == pytest.approx(
          _lag_one(grain[..., channel], whole, axis), abs=0.1)
  assert not added[~hole].any()


def test_channels_keep_their_strengths_and_their_correlation(masks):
  ring, hole = masks
  flat = np.full((_SIZE, _SIZE, 3), 100.0)
  grain = _grain(1.0)[..., :1] * [2, 4, 6] + _grain(1.0, seed=2) * [0, 0, 6]
  added = (match_grain(flat, flat + grain, ring, hole, seed=0) - flat)[hole]
  np.testing.assert_allclose(added.std(axis=0), [2, 4, 8.5], rtol=0.15)
  found = np.corrcoef(added.T)
  assert found[0, 1] > 0.95 and found[0, 2] == pytest.approx(0.7, abs=0.1)


def test_without_grain_nothing_is_added(masks):
  ring, hole = masks
  flat = np.full((_SIZE, _SIZE, 3), 100.0)
  flat[:, _SIZE // 2:] += 60
  np.testing.assert_allclose(match_grain(flat, flat, ring, hole, seed=0), flat, atol=1e-3)


@pytest.mark.parametrize('present', [1.0, 3.0])
def test_a_fill_with_grain_gets_no_more(masks, present):
  ring, hole = masks
  fill, truth = 100 + _grain(3 * present, seed=2), 100 + _grain(3.0)
  added = match_grain(fill, truth, ring, hole, seed=0) - fill
  assert added[hole].std() < 1.2  # of 3, by the errors of two estimates
  assert present == 1 or np.abs(added).max() < 1e-4


def test_texture_in_most_of_the_ring_is_no_grain(masks):
  ring, hole = masks
  flat = np.full((_SIZE, _SIZE, 3), 100.0)
  texture = _grain(30.0, 1.0)
  texture[:, :_SIZE // 2 - 10] = 0  # smooth in the left third
  added = match_grain(flat, flat + texture + _grain(2.0), ring, hole, seed=0) - flat
  assert added[hole].std() == pytest.approx(2, rel=0.2)


def test_the_seed_decides(masks):
  ring, hole = masks
  flat = np.full((_SIZE, _SIZE, 3), 100.0)
  first, again, other = (match_grain(flat, flat + _grain(3.0), ring, hole, s) for s in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other)[hole].mean() > 1


def test_other_pixels_do_not_count(masks):
  ring, hole = masks
  fill, truth = np.full((_SIZE, _SIZE, 3), 100.0), 100 + _grain(3.0)
  expected = match_grain(fill, truth, ring, hole, seed=0)
  fill[~hole], truth[~ring] = np.nan, np.nan
  np.testing.assert_array_equal(match_grain(fill, truth, ring, hole, seed=0)[hole], expected[hole])


def test_too_few_pixels_tell_nothing(masks):
  ring, hole = masks
  fill, truth = np.full((_SIZE, _SIZE, 3), 100.0), 100 + _grain(3.0)
  thin = ring & ndimage.binary_dilation(hole)
  thin[:, _SIZE // 2:] = False
  for few in (np.zeros_like(ring), thin):
    few = few & (np.cumsum(few).reshape(few.shape) <= 60)
    np.testing.assert_array_equal(match_grain(fill, truth, few, hole, seed=0), fill)
  np.testing.assert_array_equal(match_grain(fill, truth, ring, np.zeros_like(hole), 0), fill)
