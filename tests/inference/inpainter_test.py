import numpy as np
import pytest

from mat_jax.errors import UserError
from mat_jax.inference.blending import blend
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.options import InpaintOptions


@pytest.fixture(scope='module')
def inpainter(trained):
  return Inpainter.from_checkpoint(trained[0])


def _picture(height, width):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  mask = np.ones((height, width), bool)
  mask[height // 3:height // 2, width // 4:width // 2] = False
  return image, mask


@pytest.mark.parametrize('height,width', [(64, 64), (200, 150), (90, 301), (30, 40)])
def test_any_size_keeps_what_is_kept(inpainter, height, width):
  image, mask = _picture(height, width)
  results = inpainter.inpaint(image, mask, num_samples=2)
  assert results.shape == (2, height, width, 3) and results.dtype == np.uint8
  for result in results:
    np.testing.assert_array_equal(result[mask], image[mask])
    assert np.any(result[~mask] != image[~mask])
  assert np.any(results[0] != results[1]), 'samples differ'


def test_the_hole_does_not_reach_the_result(inpainter):
  image, mask = _picture(150, 150)
  other = image.copy()
  other[~mask] = 255 - other[~mask]
  np.testing.assert_array_equal(inpainter.inpaint(image, mask), inpainter.inpaint(other, mask))


def test_the_seed_decides(inpainter):
  image, mask = _picture(64, 64)
  first, again, other = (inpainter.inpaint(image, mask, seed=s) for s in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_without_a_hole_nothing_changes(inpainter):
  image, mask = _picture(64, 64)
  np.testing.assert_array_equal(inpainter.inpaint(image, np.ones_like(mask))[0], image)
  assert inpainter.inpaint(image, np.zeros_like(mask)).shape == (1, 64, 64, 3)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_kept_pixels_and_alpha_stay_in_every_type(inpainter, dtype, channels):
  rng = np.random.default_rng(0)
  image = rng.integers(0, np.iinfo(dtype).max, (80, 70, channels), endpoint=True).astype(dtype)
  mask = _picture(80, 70)[1]
  result, = inpainter.inpaint(image, mask)
  assert result.dtype == dtype
  np.testing.assert_array_equal(result[mask], image[mask])
  colours = channels - (channels in (2, 4))
  assert np.any(result[~mask][:, :colours] != image[~mask][:, :colours])
  np.testing.assert_array_equal(result[..., colours:], image[..., colours:])


def test_holes_far_from_each_other_are_filled_as_each_alone(inpainter):
  image, _ = _picture(300, 400)
  first, second = np.ones((300, 400), bool), np.ones((300, 400), bool)
  first[20:40, 30:50], second[250:270, 340:365] = False, False
  both = inpainter.inpaint(image, first & second, seed=5)[0]
  for mask in (first, second):
    np.testing.assert_array_equal(both[~mask], inpainter.inpaint(image, mask, seed=5)[0][~mask])


def test_latents_and_keep_masks_can_be_held(inpainter):
  image, mask = _picture(64, 64)
  plain, = inpainter.inpaint(image, mask, seed=3)
  for held in ('latent_seed', 'keep_seed'):
    same, other = inpainter.inpaint(
        image, mask, options=InpaintOptions(seeds=(3, 4), **{held: 3}))
    np.testing.assert_array_equal(same, plain)
    assert np.any(other != plain)


def test_the_way_between_two_completions_begins_with_the_first(inpainter):
  image, mask = _picture(64, 64)
  way = inpainter.interpolate(image, mask, (3, 4), 3, InpaintOptions(grain=False))
  ends = inpainter.inpaint(
      image, mask, options=InpaintOptions(seeds=(3, 4), keep_seed=3, grain=False))
  np.testing.assert_array_equal(way[0], ends[0])
  # The last of the way differs by the rounding of the interpolation.
  assert np.abs(way[-1].astype(int) - ends[1]).max() <= 1
  assert np.any(way[1] != way[0]) and np.any(way[1] != way[2])


def test_a_large_hole_is_enlarged_or_tiled_with_a_notice(inpainter, caplog):
  image, mask = _picture(400, 400)
  mask[50:350, 60:340] = False
  with caplog.at_level('WARNING'):
    tiled = inpainter.inpaint(image, mask)[0]
  assert 'coarse' in caplog.text or 'tiles' in caplog.text
  np.testing.assert_array_equal(tiled[mask], image[mask])
  resized = inpainter.inpaint(image, mask, options=InpaintOptions(strategy='resize'))[0]
  assert np.any(tiled != resized)
  with pytest.raises(UserError, match='crop'):
    inpainter.inpaint(image, mask, options=InpaintOptions(strategy='crop'))


def test_an_enlarged_result_has_the_texture_of_the_picture(inpainter):
  side = 4 * inpainter.resolution
  image = np.full((side, side, 3), 60, np.uint8)
  image[:, ::2] = 180
  mask = np.ones((side, side), bool)
  mask[side // 4:-side // 4, side // 8:-side // 8] = False
  textured, plain = (inpainter.inpaint(image, mask, options=InpaintOptions(
      texture=texture, grain=False))[0].astype(int) for texture in (True, False))
  np.testing.assert_array_equal(textured[mask], image[mask])
  contrast = [np.abs(np.diff(result[side // 3:-side // 3, side // 5:-side // 5], axis=1)).mean()
              for result in (textured, plain)]
  assert contrast[0] > 3 * contrast[1], 'stripes of a pixel, which a shrunk picture has not'
  # What is not enlarged is as the network leaves it.
  image, mask = _picture(inpainter.resolution, inpainter.resolution)
  np.testing.assert_array_equal(*(
      inpainter.inpaint(image, mask, options=InpaintOptions(texture=texture))
      for texture in (True, False)))


def test_a_feather_changes_kept_pixels_beside_the_hole_alone(inpainter):
  image, mask = _picture(100, 100)
  options = InpaintOptions(feather=3)
  changed = np.any(inpainter.inpaint(image, mask, options=options)[0] != image, axis=-1)
  reach = blend.grow(~mask, 3)
  assert np.any(changed & mask) and not np.any(changed & ~reach)


def test_the_network_sees_the_kept_pixels_beside_the_hole(inpainter):
  image, mask = _picture(64, 64)
  other = image.copy()
  beside = mask & blend.grow(~mask, 1)
  other[beside] = 255 - other[beside]
  plain, changed = (inpainter.inpaint(x, mask, options=InpaintOptions(seamless=False))[0]
                    for x in (image, other))
  assert np.any(plain[~mask] != changed[~mask])


def test_wrong_arrays_are_named(inpainter):
  image, mask = _picture(64, 64)
  with pytest.raises(UserError, match='float64'):
    inpainter.inpaint(image / 255.0, mask)
  with pytest.raises(UserError, match='the mask is'):
    inpainter.inpaint(image, mask[:-1])


def test_arrays_mean_what_files_mean(inpainter, caplog):
  image, mask = _picture(64, 64)
  soft = np.where(mask, 255, 0).astype(np.uint8)
  soft[0, :5] = 254
  mask[0, :5] = False
  with caplog.at_level('WARNING'):
    expected = inpainter.inpaint(image, mask)
    assert not caplog.messages
    for array in (soft, soft[..., None], soft / np.float32(255)):
      np.testing.assert_array_equal(inpainter.inpaint(image, array), expected)
  assert [message.split(' pixels')[0] for message in caplog.messages] == [
      'The mask: 5 of 4,096'] * 3
  np.testing.assert_array_equal(inpainter.inpaint(image, mask.astype(np.uint8)), expected)
  with pytest.raises(UserError, match='the mask is float64 with values from 0.0 to 255.0'):
    inpainter.inpaint(image, 255.0 * mask)
