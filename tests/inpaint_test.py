import os

import numpy as np
from PIL import Image
import pytest

from mat_jax import inpaint
from mat_jax.errors import UserError
from mat_jax.inpaint import Inpainter, Window


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


def test_wrong_arrays_are_named(inpainter):
  image, mask = _picture(64, 64)
  with pytest.raises(UserError, match='float64'):
    inpainter.inpaint(image / 255.0, mask)
  with pytest.raises(UserError, match='the mask is'):
    inpainter.inpaint(image, mask[:-1])


@pytest.mark.parametrize('size,hole,expected', [
    ((64, 64), (10, 20, 10, 20), Window(0, 0, 64)),
    ((300, 400), (100, 120, 200, 220), Window(78, 178, 64)),
    ((300, 400), (0, 20, 390, 400), Window(0, 336, 64)),
    ((300, 400), (0, 300, 0, 400), Window(-50, 0, 400)),
    ((100, 400), (40, 60, 0, 200), Window(-100, 0, 300)),
    ((40, 30), (0, 5, 0, 5), Window(0, -5, 40)),
])
def test_windows_hold_the_hole_and_stay_inside(size, hole, expected):
  array = np.zeros(size, bool)
  array[hole[0]:hole[1], hole[2]:hole[3]] = True
  assert inpaint.find_window(array, 64) == expected


def _folder(path, names, size=(64, 64)):
  path.mkdir()
  for name in names:
    Image.new('RGB', size, 'white').save(path / name)
  return str(path)


def test_files_are_matched_by_stem(tmp_path):
  images = _folder(tmp_path / 'i', ['b.jpg', 'a.png'])
  masks = _folder(tmp_path / 'm', ['a.png', 'b.png', 'c.png'])
  pairs = [tuple(os.path.basename(p) for p in pair) for pair in inpaint.match_files(images, masks)]
  assert pairs == [('a.png', 'a.png'), ('b.jpg', 'b.png')]
  one = os.path.join(masks, 'a.png')
  assert [mask for _, mask in inpaint.match_files(images, one)] == [one, one]


@pytest.mark.parametrize('image_names,mask_names,message', [
    (['a.png'], ['b.png'], 'no mask for .*a.png'),
    (['a.png', 'a.jpg'], ['a.png'], 'rename one')])
def test_files_that_do_not_match(tmp_path, image_names, mask_names, message):
  images = _folder(tmp_path / 'i', image_names)
  with pytest.raises(UserError, match=message):
    inpaint.match_files(images, _folder(tmp_path / 'm', mask_names))


def test_writes_png_files_and_checks_before_it_starts(trained, tmp_path):
  workdir, config = trained
  config = config.copy_and_resolve_references()
  config.inpaint.images = _folder(tmp_path / 'i', ['a.png', 'b.png'], (50, 70))
  config.inpaint.masks = _folder(tmp_path / 'm', ['a.png'], (50, 70))
  Image.new('L', (50, 60)).save(tmp_path / 'm' / 'b.png')
  config.inpaint.output = str(tmp_path / 'out')
  with pytest.raises(UserError, match='b.png is 50 x 60, its image .* 50 x 70'):
    inpaint.inpaint_files(config, workdir)
  assert not os.path.exists(tmp_path / 'out')
  Image.new('L', (50, 70)).save(tmp_path / 'm' / 'b.png')
  config.inpaint.num_samples = 2
  inpaint.inpaint_files(config, workdir)
  assert sorted(os.listdir(tmp_path / 'out')) == ['a_0.png', 'a_1.png', 'b_0.png', 'b_1.png']
  kept = np.asarray(Image.open(tmp_path / 'out' / 'a_0.png'))
  assert np.all(kept == 255)
