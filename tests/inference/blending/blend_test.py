import numpy as np
import pytest
from scipy import ndimage

from mat_jax.inference.blending import blend

_SIZE = 160


@pytest.fixture(scope='module')
def picture():
  """A picture with edges and grain in levels, a network's output for it, and its hole."""
  y, x = np.indices((_SIZE, _SIZE))
  smooth = np.stack([100 + 40 * np.sin(x / 25), 90 + 30 * np.cos(y / 30), 120 + x * y / 900], -1)
  smooth[60:, 70:] += 40
  grain = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=smooth.shape), (0.5, 0.5, 0))
  truth = smooth + 3 * grain / grain.std()
  shift = np.stack([6 + 6 * x / _SIZE, 8 * y / _SIZE - 10, 7 - 0 * x], -1)
  hole = np.hypot(y - 70, x - 85) < 45
  hole[130:140, 20:140] = True
  return truth.astype(np.float32), (smooth + shift).astype(np.float32), hole


def _blend(picture, seamless=True, grain=True, seed=0, known=None, **options):
  truth, output, hole = picture
  known = ~hole if known is None else known
  return blend.blend(output, truth, known, hole, seamless, grain, seed, **options)


def _ratio(picture, hole):
  across, inside = blend.border_gradient(picture, hole)
  return across / inside


@pytest.mark.parametrize('width', [0, 1, 5])
def test_holes_grow_to_all_sides(width):
  hole = np.zeros((20, 30), bool)
  hole[10, 12:14] = hole[0, 0] = True
  expected = np.zeros_like(hole)
  expected[10 - width:11 + width, 12 - width:14 + width] = True
  expected[:1 + width, :1 + width] = True
  grown = blend.grow(hole, width)
  assert grown.dtype == bool
  np.testing.assert_array_equal(grown, expected)


def test_the_border_vanishes(picture):
  truth, output, hole = picture
  assert _ratio(np.where(hole[..., None], output, truth), hole) > 2
  across, inside = blend.border_gradient(_blend(picture), hole)
  assert across / inside == pytest.approx(1, abs=0.1)
  true_inside = blend.border_gradient(truth, hole)[1]
  assert inside == pytest.approx(true_inside, rel=0.15), 'grain as in the truth'
  assert blend.border_gradient(_blend(picture, grain=False), hole)[1] < 0.8 * true_inside


@pytest.mark.parametrize('detail', [0.7, 1.5])
def test_a_texture_that_does_not_go_on_shows_no_border(detail):
  """What a network invents has the truth's kind of texture, in other places and colours."""
  hole = np.hypot(*(np.indices((_SIZE, _SIZE)) - 80)) < 45
  noise = np.random.default_rng(0).normal(size=(2, _SIZE, _SIZE, 3))
  truth, output = 12 * ndimage.gaussian_filter(noise, (0, detail, detail, 0)) * detail
  output += [10, -6, 8]
  pasted, result = (_blend((truth, output, hole), seamless) for seamless in (False, True))
  assert _ratio(pasted, hole) > 1.5 and _ratio(result, hole) < 1.15
  deep = ~blend.grow(~hole, 8)
  assert np.std(result[deep] - output[deep], axis=0).max() < 0.3 * output[deep].std()


def test_colours_meet_where_a_network_leaves_a_step():
  hole = np.zeros((40, 40), bool)
  hole[10:30, 10:30] = True
  x = np.indices(hole.shape)[1][..., None]
  result = blend.fit_colours(np.where(hole[..., None], 9.0, x), ~hole, hole)
  assert result.dtype == np.float32
  np.testing.assert_array_equal(result[~hole], np.broadcast_to(x, (40, 40, 1))[~hole])
  assert _ratio(result, hole) <= 1
  np.testing.assert_allclose(result[15:25, 10:30, 0], np.tile(np.linspace(9, 30, 20), (10, 1)),
                             atol=1.5)
  everything = np.ones_like(hole)
  np.testing.assert_array_equal(blend.fit_colours(result, ~everything, everything), result)


def test_an_outline_of_the_mask_vanishes():
  hole = np.zeros((60, 60), bool)
  hole[10:50, 10:50] = True
  inner = hole & ~blend.grow(~hole, 2)
  output = np.where(inner, 130.0, np.where(hole, 90.0, 0.0))[..., None].repeat(3, -1)
  truth = np.full((60, 60, 3), 120.0)
  np.testing.assert_allclose(_blend((truth, output, hole), grain=False), truth, atol=1e-3)
  # Of a network's result that is enlarged 3 times, the outline is so much wider.
  hole, output, truth = (x.repeat(3, 0).repeat(3, 1) for x in (hole, output, truth))
  np.testing.assert_allclose(_blend((truth, output, hole), grain=False, scale=3.0), truth, atol=1e-3)


def test_a_rim_is_replaced_only_from_near():
  hole = np.zeros((40, 60), bool)
  hole[10:30, 5:25] = hole[18:21, 25:55] = True
  picture = np.random.default_rng(0).normal(size=(40, 60, 1))
  result = blend.replace_rim(picture, ~hole, hole, 3)
  np.testing.assert_array_equal(result[10:13, 15], np.tile(picture[13, 15], (3, 1)))
  np.testing.assert_array_equal(result[13:27, 8:22], picture[13:27, 8:22])
  np.testing.assert_array_equal(result[:, 30:], picture[:, 30:], 'narrow')
  np.testing.assert_array_equal(result[~hole], picture[~hole])


def test_kept_pixels_stay_and_the_hole_is_never_read(picture):
  truth, output, hole = picture
  result = _blend(picture)
  assert result.dtype == np.float32
  np.testing.assert_array_equal(result[~hole], truth[~hole])
  unseen = np.where(hole[..., None], np.nan, truth)
  np.testing.assert_array_equal(_blend((unseen, output, hole)), result)


def test_an_offset_is_taken_away():
  y, x = np.indices((64, 64))
  truth = np.stack([x, y, x + y], -1).astype(np.float32)
  hole = np.zeros((64, 64), bool)
  hole[10:50, 20:45] = True
  output = truth + [5, -3, 0] + 0.2 * y[..., None]
  result = _blend((truth, output, hole), grain=False)
  # The rim has no slope of its own, that of the truth is 1 or 2 a pixel.
  np.testing.assert_allclose(result, truth, atol=5)
  np.testing.assert_allclose(result[28:32, 31:34], truth[28:32, 31:34], atol=1)
  pasted = _blend((truth, output, hole), seamless=False, grain=False)
  np.testing.assert_allclose(pasted, np.where(hole[..., None], output, truth), atol=1e-4)


def test_unknown_pixels_do_not_count(picture):
  truth, output, hole = picture
  known = ~hole
  known[:, 120:] = False  # beyond the edge of the picture, or a hole that is filled later
  expected = _blend(picture, known=known)
  dark = np.where((known | hole)[..., None], truth, 0)
  np.testing.assert_array_equal(_blend((dark, output, hole), known=known)[hole], expected[hole])
  assert np.any(expected != _blend(picture))


def test_a_picture_that_is_all_hole_is_the_output(picture):
  truth, output, hole = picture
  everything = np.ones_like(hole)
  np.testing.assert_array_equal(_blend((truth, output, everything)), output)


def test_a_feather_touches_only_its_kept_pixels(picture):
  truth, output, hole = picture
  result = _blend(picture, feather_width=4)
  far = ~blend.grow(hole, 4)
  np.testing.assert_array_equal(result[far], truth[far])
  assert np.abs(result - truth)[~hole & ~far].mean() > 0.5


def test_a_feather_fades_with_the_distance():
  hole = np.zeros((11, 40), bool)
  hole[:, :10] = True
  fill, truth = np.full((11, 40, 3), 9.0), np.zeros((11, 40, 3))
  row = blend.feather(fill, truth, hole, 8)[5, :, 0]
  assert np.all(row[:10] == 9) and np.all(row[18:] == 0)
  steps = -np.diff(row[9:19])
  assert np.all(steps > 0) and steps.max() < 2
  assert np.all(blend.feather(fill, truth, hole, 0)[~hole] == 0)
  assert not blend.feather(fill, truth, np.zeros_like(hole), 8).any()


def test_border_gradient_measures_both():
  hole = np.zeros((30, 30), bool)
  hole[:, 15:] = True
  _, x = np.indices(hole.shape)
  across, inside = blend.border_gradient((2 * x + 10 * hole)[..., None], hole)
  assert across == 12
  assert inside == pytest.approx(2 * (7 / 15), rel=0.05), 'most pairs one above the other are equal'
  noise = np.random.default_rng(0).normal(size=(300, 300, 3))
  hole = ndimage.zoom(hole, 10, order=0)
  across, inside = blend.border_gradient(noise, hole)
  assert across / inside == pytest.approx(1, abs=0.1)
  for without_border in (np.zeros_like(hole), np.ones_like(hole)):
    with pytest.raises(ValueError, match='no border'):
      blend.border_gradient(noise, without_border)
