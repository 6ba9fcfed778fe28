"""Finding, splitting, decoding and squaring images."""

import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest

from input_pipeline import portraits
from mat_jax.errors import UserError


def gradient(height=40, width=30):
  """An RGB image whose red grows downwards and green to the right, uint8 [H, W, 3]."""
  rows, columns = np.mgrid[0:height, 0:width]
  blue = np.full_like(rows, 90)
  return np.stack([rows * 255 // (height - 1), columns * 255 // (width - 1), blue], -1).astype(
      np.uint8)


def save(path, array, **options):
  Image.fromarray(array).save(path, **options)
  return str(path)


def test_samples_come_with_the_project():
  files = portraits.find_images('samples')
  assert len(files) == 33
  folder = pathlib.Path(files[0]).parent
  assert (folder / 'README.md').exists() and (folder / 'portraits.csv').exists()
  assert all(min(portraits.load_image(file).shape[:2]) >= 180 for file in files)


def test_finds_images_in_all_folders_sorted(tmp_path):
  for name in ('b/2.PNG', 'b/1.jpg', 'a.webp', 'c.bmp', 'b-1.jpeg'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  for name in ('notes.txt', '._a.jpg', '.ipynb_checkpoints/b.jpg', 'table.csv'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  names = [
      pathlib.Path(file).relative_to(tmp_path).as_posix()
      for file in portraits.find_images(str(tmp_path))
  ]
  assert names == ['a.webp', 'b-1.jpeg', 'b/1.jpg', 'b/2.PNG', 'c.bmp']


def test_folders_that_are_none(tmp_path):
  with pytest.raises(UserError, match='missing.*does not exist'):
    portraits.find_images(str(tmp_path / 'missing'))
  file = tmp_path / 'file.jpg'
  file.touch()
  with pytest.raises(UserError, match='file.jpg.*is a file'):
    portraits.find_images(str(file))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='empty.*holds no images'):
    portraits.find_images(str(tmp_path / 'empty'))


@pytest.mark.parametrize(
    ('count', 'sizes'),
    [(3, (1, 1, 1)), (4, (2, 1, 1)), (10, (8, 1, 1)), (33, (28, 3, 2)), (7009, (5957, 700, 352))])
def test_split_sizes(count, sizes):
  files = [f'/data/{i:05}.jpg' for i in range(count)]
  parts = [portraits.split(files, name) for name in portraits.SPLITS]
  assert tuple(map(len, parts)) == sizes
  assert sorted(sum(parts, [])) == files
  assert portraits.split(files, 'all') == files


def test_split_does_not_depend_on_place_or_order():
  names = [f'{"ab"[i % 2]}/{i * 37 % 101}.jpg' for i in range(50)]
  here = portraits.split([f'/home/me/{name}' for name in names], 'validation+test')
  there = portraits.split([f'/mnt/{name}' for name in reversed(names)], 'test+validation')
  assert [file.removeprefix('/home/me/') for file in here] == [
      file.removeprefix('/mnt/') for file in there]
  assert here != portraits.split([f'/home/me/{name}' for name in names], 'validation+test', seed=1)


@pytest.mark.parametrize(('name', 'count'), [('training', 9), ('train+', 9), ('test', 2)])
def test_splits_that_are_none(name, count):
  with pytest.raises(UserError, match='split'):
    portraits.split([f'{i}.jpg' for i in range(count)], name)


@pytest.mark.parametrize(
    ('suffix', 'tolerance'), [('.png', 0), ('.bmp', 0), ('.tiff', 0), ('.webp', 0), ('.jpg', 6)])
def test_formats(tmp_path, suffix, tolerance):
  options = {'.webp': {'lossless': True}, '.jpg': {'quality': 95, 'subsampling': 0}}
  array = gradient()
  image = portraits.load_image(save(tmp_path / f'a{suffix}', array, **options.get(suffix, {})))
  assert image.dtype == np.uint8
  np.testing.assert_allclose(image.astype(int), array, atol=tolerance)


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_grayscale(tmp_path, suffix):
  gray = gradient()[..., 0]
  image = portraits.load_image(save(tmp_path / f'a{suffix}', gray, quality=95))
  np.testing.assert_allclose(image.astype(int), np.stack([gray] * 3, -1), atol=3)


def test_cmyk(tmp_path):
  path = tmp_path / 'a.jpg'
  Image.fromarray(gradient()).convert('CMYK').save(path, quality=95)
  np.testing.assert_allclose(portraits.load_image(str(path)).astype(int), gradient(), atol=12)


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_16_bits_are_scaled(tmp_path, suffix):
  gray = gradient()[..., 0]
  path = save(tmp_path / f'a{suffix}', gray.astype(np.uint16) * 257)
  np.testing.assert_array_equal(portraits.load_image(path), np.stack([gray] * 3, -1))


def test_palette_and_two_colours(tmp_path):
  blocks = np.kron(np.array([[0, 1], [2, 3]]), np.ones((10, 10), int))
  colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
  palette = Image.fromarray(blocks.astype(np.uint8))
  palette.putpalette(colours.tobytes())
  palette.save(tmp_path / 'a.png')
  palette.save(tmp_path / 'a.gif')
  for name in ('a.png', 'a.gif'):
    np.testing.assert_array_equal(portraits.load_image(str(tmp_path / name)), colours[blocks])
  Image.fromarray(blocks > 1).save(tmp_path / 'b.png')
  np.testing.assert_array_equal(
      portraits.load_image(str(tmp_path / 'b.png'))[..., 1], (blocks > 1) * 255)


def test_transparency_is_laid_on_white(tmp_path):
  array = np.zeros((10, 10, 4), np.uint8)
  array[5:, :, 3] = 255
  expected = np.where(array[..., 3:] == 255, 0, 255).repeat(3, -1)
  np.testing.assert_array_equal(portraits.load_image(save(tmp_path / 'rgba.png', array)), expected)
  Image.fromarray(array).convert('LA').save(tmp_path / 'la.png')
  np.testing.assert_array_equal(portraits.load_image(str(tmp_path / 'la.png')), expected)
  palette = Image.fromarray(array[..., 3] // 255)
  palette.putpalette([10, 20, 30, 0, 0, 0])
  palette.save(tmp_path / 'p.png', transparency=0)
  np.testing.assert_array_equal(portraits.load_image(str(tmp_path / 'p.png')), expected)


@pytest.mark.parametrize(
    ('orientation', 'stored'),
    [
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (6, lambda image: np.rot90(image)),
        (8, lambda image: np.rot90(image, -1)),
    ])
def test_exif_orientation(tmp_path, orientation, stored):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = save(tmp_path / 'a.png', np.ascontiguousarray(stored(gradient())), exif=exif)
  np.testing.assert_array_equal(portraits.load_image(path), gradient())


def test_broken_files_are_named(tmp_path):
  (tmp_path / 'text.jpg').write_text('no image')
  (tmp_path / 'empty.png').touch()
  data = pathlib.Path(portraits.find_images('samples')[0]).read_bytes()
  (tmp_path / 'cut.jpg').write_bytes(data[:len(data) // 2])
  png = pathlib.Path(save(tmp_path / 'whole.png', np.random.default_rng(0).integers(
      256, size=(40, 40, 3), dtype=np.uint8))).read_bytes()
  (tmp_path / 'cut.png').write_bytes(png[:len(png) // 2])
  for name in ('text.jpg', 'empty.png', 'cut.jpg', 'cut.png', 'missing.jpg'):
    with pytest.raises(UserError, match=f'{name}.*cannot be read'):
      portraits.load_image(str(tmp_path / name))


def test_small_files_are_named(tmp_path):
  with pytest.raises(UserError, match='thin.png.*too small'):
    portraits.load_image(save(tmp_path / 'thin.png', gradient(100, 7)))
  assert portraits.load_image(save(tmp_path / 'a.png', gradient(8, 8))).shape == (8, 8, 3)


@pytest.mark.parametrize(('height', 'width'), [(40, 30), (30, 40), (33, 33), (300, 10), (8, 9)])
@pytest.mark.parametrize('crop', portraits.CROPS)
def test_square_shape(height, width, crop):
  rng = np.random.default_rng(0)
  image = portraits.square(gradient(height, width), 16, crop, rng)
  assert image.shape == (16, 16, 3) and image.dtype == np.uint8


def test_square_keeps_the_top_and_the_centre():
  tall, wide = gradient(64, 32), gradient(32, 64)
  np.testing.assert_array_equal(portraits.square(tall, 32), tall[:32])
  np.testing.assert_array_equal(portraits.square(tall, 32, 'center'), tall[16:48])
  for crop in ('top', 'center'):
    np.testing.assert_array_equal(portraits.square(wide, 32, crop), wide[:, 16:48])


def test_random_crops_reach_both_ends():
  tall, rng = gradient(34, 32), np.random.default_rng(0)
  seen = {portraits.square(tall, 32, 'random', rng)[0, 0, 0] for _ in range(50)}
  assert seen == set(tall[:3, 0, 0])


def test_resize_does_not_alias():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[::2] = 255
  inner = portraits.square(stripes, 16)[2:-2]
  assert np.ptp(inner.astype(int)) <= 2 and abs(inner.mean() - 127.5) < 2


def test_unknown_crop():
  with pytest.raises(UserError, match="unknown crop 'bottom'"):
    portraits.square(gradient(), 16, 'bottom')


def test_a_copy_of_the_samples_is_split_alike(tmp_path):
  samples = portraits.find_images('samples')
  shutil.copytree(pathlib.Path(samples[0]).parent, tmp_path / 'copy')
  copy = portraits.find_images(str(tmp_path / 'copy'))
  names = [
      [pathlib.Path(file).name for file in portraits.split(files, 'validation')]
      for files in (samples, copy)
  ]
  assert names[0] == names[1] and len(names[0]) == 3
