import numpy as np
import pytest
from scipy import ndimage

from mat_jax.inference.blending.texture import transfer_texture

_SIZE, _SCALE = 96, 3.0


@pytest.fixture(scope='module')
def woven():
  """A picture of cloth in two colours, what an enlarged completion of it is like, and its hole."""
  y, x = np.indices((_SIZE, _SIZE))
  cloth = np.where(((x // 4) + (y // 4)) % 2, 0.6, -0.2)
  cloth = np.where(x < _SIZE // 2, cloth, np.where((x + y) // 4 % 2, 0.9, 0.1))
  truth = np.stack([cloth, 0.5 * cloth, -cloth], -1).astype(np.float32)
  hole = np.hypot(y - 45, x - 50) < 20
  fill = ndimage.gaussian_filter(truth, (0.5 * _SCALE, 0.5 * _SCALE, 0))
  return truth, fill, hole


def _error(result, truth, hole):
  return float(np.sqrt(np.square(result - truth)[hole].mean()))


def test_a_blurred_fill_gets_the_texture_that_it_was_blurred_from(woven):
  truth, fill, hole = woven
  result = transfer_texture(fill, truth, ~hole, hole, _SCALE, 0)
  assert result.dtype == np.float32
  assert _error(result, truth, hole) < 0.5 * _error(fill, truth, hole)
  inner = ndimage.binary_erosion(hole, iterations=4)
  contrast = [np.std(picture[inner], axis=0).mean() for picture in (result, fill, truth)]
  assert contrast[1] < 0.7 * contrast[2] < contrast[0], 'as sharp as the picture'


def test_nothing_but_the_hole_changes(woven):
  truth, fill, hole = woven
  result = transfer_texture(fill, truth, ~hole, hole, _SCALE, 0)
  np.testing.assert_array_equal(result[~hole], fill[~hole])


def test_what_is_not_known_is_not_read(woven):
  truth, fill, hole = woven
  known = ~hole
  known[:, :20] = False
  other = np.where(known[..., None], truth, 7).astype(np.float32)
  results = [transfer_texture(fill, picture, known, hole, _SCALE, 0) for picture in (truth, other)]
  np.testing.assert_array_equal(*results)
  for channel in range(3):  # means of what is known
    seen = truth[known][:, channel]
    assert seen.min() - 1e-6 <= results[0][hole][:, channel].min()
    assert results[0][hole][:, channel].max() <= seen.max() + 1e-6


@pytest.mark.parametrize('scale', [1.2, 2.0, 6.0])
def test_every_pixel_of_a_hole_is_covered(scale):
  rng = np.random.default_rng(0)
  truth = rng.uniform(0.5, 1, (80, 120, 3)).astype(np.float32)
  hole = np.zeros((80, 120), bool)
  hole[:30, 60:] = hole[40, 3] = hole[79, 119] = True
  result = transfer_texture(np.full_like(truth, 0.7), truth, ~hole, hole, scale, 0)
  assert result.shape == truth.shape and result[hole].min() >= 0.5


def test_of_a_large_picture_the_seed_chooses_what_is_compared():
  rng = np.random.default_rng(0)
  truth = ndimage.gaussian_filter(rng.normal(size=(220, 220, 3)), (1, 1, 0)).astype(np.float32)
  hole = np.zeros((220, 220), bool)
  hole[100:120, 90:130] = True
  fill = ndimage.gaussian_filter(truth, (1.5, 1.5, 0))
  first, again, other = (transfer_texture(fill, truth, ~hole, hole, 3, s) for s in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)
  for result in (first, other):  # sharper, though not all of the picture was compared
    assert result[hole].std() > 1.1 * fill[hole].std()


def test_with_too_little_to_copy_from_the_fill_stays(woven):
  truth, fill, hole = woven
  for known in (np.zeros_like(hole), np.pad(np.ones((10, 10), bool), ((0, 86), (0, 86)))):
    np.testing.assert_array_equal(transfer_texture(fill, truth, known, hole, _SCALE, 0), fill)
  nothing = np.zeros_like(hole)
  np.testing.assert_array_equal(transfer_texture(fill, truth, ~nothing, nothing, _SCALE, 0), fill)


def test_a_flat_picture_stays_flat():
  flat = np.full((40, 40, 3), 0.25, np.float32)
  hole = np.zeros((40, 40), bool)
  hole[10:30, 10:30] = True
  np.testing.assert_allclose(transfer_texture(flat, flat, ~hole, hole, 2, 0), flat, atol=1e-6)
