"""Decoding and squaring images."""

import io
import pathlib

import numpy as np
from PIL import Image, ImageFile
import pytest

from mat_jax.errors import UserError
from mat_jax.runtime import images


def gradient(height=40, width=30):
  """An RGB image whose red grows downwards and green to the right, uint8 [H, W, 3]."""
  rows, columns = np.mgrid[0:height, 0:width]
  blue = np.full_like(rows, 90)
  return np.stack([rows * 255 // (height - 1), columns * 255 // (width - 1), blue], -1).astype(
      np.uint8)


def jpeg(array, **options):
  """The bytes of a JPEG."""
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'JPEG', **options)
  return file.getvalue()


def square(array, *options):
  return images.square(Image.fromarray(array), *options)


def save(path, array, **options):
  Image.fromarray(array).save(path, **options)
  return str(path)


@pytest.mark.parametrize(
    ('suffix', 'tolerance'), [('.png', 0), ('.bmp', 0), ('.tiff', 0), ('.webp', 0), ('.jpg', 6)])
def test_formats(tmp_path, suffix, tolerance):
  options = {'.webp': {'lossless': True}, '.jpg': {'quality': 95, 'subsampling': 0}}
  array = gradient()
  image = images.load_image(save(tmp_path / f'a{suffix}', array, **options.get(suffix, {})))
  assert image.dtype == np.uint8
  np.testing.assert_allclose(image.astype(int), array, atol=tolerance)


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_grayscale(tmp_path, suffix):
  gray = gradient()[..., 0]
  image = images.load_image(save(tmp_path / f'a{suffix}', gray, quality=95))
  np.testing.assert_allclose(image.astype(int), np.stack([gray] * 3, -1), atol=3)


def test_cmyk(tmp_path):
  path = tmp_path / 'a.jpg'
  Image.fromarray(gradient()).convert('CMYK').save(path, quality=95)
  np.testing.assert_allclose(images.load_image(str(path)).astype(int), gradient(), atol=12)


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_16_bits_are_scaled(tmp_path, suffix):
  gray = gradient()[..., 0]
  path = save(tmp_path / f'a{suffix}', gray.astype(np.uint16) * 257)
  np.testing.assert_array_equal(images.load_image(path), np.stack([gray] * 3, -1))


def test_palette_and_two_colours(tmp_path):
  blocks = np.kron(np.array([[0, 1], [2, 3]]), np.ones((10, 10), int))
  colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
  palette = Image.fromarray(blocks.astype(np.uint8))
  palette.putpalette(colours.tobytes())
  palette.save(tmp_path / 'a.png')
  palette.save(tmp_path / 'a.gif')
  for name in ('a.png', 'a.gif'):
    np.testing.assert_array_equal(images.load_image(str(tmp_path / name)), colours[blocks])
  Image.fromarray(blocks > 1).save(tmp_path / 'b.png')
  np.testing.assert_array_equal(
      images.load_image(str(tmp_path / 'b.png'))[..., 1], (blocks > 1) * 255)


def test_transparency_is_laid_on_white(tmp_path):
  array = np.zeros((10, 10, 4), np.uint8)
  array[5:, :, 3] = 255
  expected = np.where(array[..., 3:] == 255, 0, 255).repeat(3, -1)
  np.testing.assert_array_equal(images.load_image(save(tmp_path / 'rgba.png', array)), expected)
  Image.fromarray(array).convert('LA').save(tmp_path / 'la.png')
  np.testing.assert_array_equal(images.load_image(str(tmp_path / 'la.png')), expected)
  palette = Image.fromarray(array[..., 3] // 255)
  palette.putpalette([10, 20, 30, 0, 0, 0])
  palette.save(tmp_path / 'p.png', transparency=0)
  np.testing.assert_array_equal(images.load_image(str(tmp_path / 'p.png')), expected)


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
  np.testing.assert_array_equal(images.load_image(path), gradient())


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tiff', '.avif', '.bmp', '.gif'])
def test_the_header_tells_the_size(tmp_path, suffix, monkeypatch):
  for orientation in (1, 3, 5, 6, 8):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f'{orientation}{suffix}', gradient(), exif=exif)
    expected = images.load_image(path).shape[1::-1]
    assert expected == ((40, 30) if orientation > 4 and suffix not in ('.bmp', '.gif')
                        else (30, 40))
    with monkeypatch.context() as patch:
      patch.setattr(Image.Image, 'load', None)
      patch.setattr(ImageFile.ImageFile, 'load', None)
      assert images.read_size(path) == expected


def test_headers_without_a_size_are_named(tmp_path):
  (tmp_path / 'text.jpg').write_text('no image')
  Image.new('L', (7, 100)).save(tmp_path / 'thin.png')
  for name, message in (('text.jpg', 'not an image'), ('thin.png', 'too small'),
                        ('missing.png', 'No such file')):
    with pytest.raises(UserError, match=f'{name}.*cannot be read.*{message}'):
      images.read_size(str(tmp_path / name))


def test_broken_files_are_named(tmp_path):
  (tmp_path / 'text.jpg').write_text('no image')
  (tmp_path / 'empty.png').touch()
  data = jpeg(gradient(200, 150))
  (tmp_path / 'cut.jpg').write_bytes(data[:len(data) // 2])
  png = pathlib.Path(save(tmp_path / 'whole.png', np.random.default_rng(0).integers(
      256, size=(40, 40, 3), dtype=np.uint8))).read_bytes()
  (tmp_path / 'cut.png').write_bytes(png[:len(png) // 2])
  for name in ('text.jpg', 'empty.png', 'cut.jpg', 'cut.png', 'missing.jpg'):
    with pytest.raises(UserError, match=f'{name}.*cannot be read'):
      images.load_image(str(tmp_path / name))


def test_small_files_are_named(tmp_path):
  with pytest.raises(UserError, match='thin.png.*too small'):
    images.load_image(save(tmp_path / 'thin.png', gradient(100, 7)))
  assert images.load_image(save(tmp_path / 'a.png', gradient(8, 8))).shape == (8, 8, 3)


@pytest.mark.parametrize(('height', 'width'), [(40, 30), (30, 40), (33, 33), (300, 10), (8, 9)])
@pytest.mark.parametrize('crop', images.CROPS)
def test_square_shape(height, width, crop):
  rng = np.random.default_rng(0)
  image = square(gradient(height, width), 16, crop, rng)
  assert image.shape == (16, 16, 3) and image.dtype == np.uint8


def test_square_keeps_the_top_and_the_centre():
  tall, wide = gradient(64, 32), gradient(32, 64)
  np.testing.assert_array_equal(square(tall, 32), tall[:32])
  np.testing.assert_array_equal(square(tall, 32, 'center'), tall[16:48])
  for crop in ('top', 'center'):
    np.testing.assert_array_equal(square(wide, 32, crop), wide[:, 16:48])


def test_random_crops_are_places_in_the_picture_itself():
  picture, rng = gradient(34, 33), np.random.default_rng(0)
  crops = [square(picture, 32, 'random_crop', rng) for _ in range(100)]
  places = {(crop[0, 0, 0], crop[0, 0, 1]) for crop in crops}
  assert places == {(row, column) for row in picture[:3, 0, 0] for column in picture[0, :2, 1]}
  for crop in crops:
    np.testing.assert_array_equal(np.diff(crop[..., 0].astype(int), axis=1), 0)
    assert len(np.unique(crop[:, 0, 0])) == 32


@pytest.mark.parametrize('crop', images.CROPS)
def test_small_images_are_enlarged_to_the_edges(crop):
  small = square(gradient(9, 8), 64, crop, np.random.default_rng(0)).astype(int)
  assert small.shape == (64, 64, 3)
  assert small[0, 0, 1] < 12 and small[-1, -1, 1] > 243


def test_resize_does_not_alias():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[::2] = 255
  inner = square(stripes, 16)[2:-2]
  assert np.ptp(inner.astype(int)) <= 2 and abs(inner.mean() - 127.5) < 2


def test_unknown_crop():
  with pytest.raises(UserError, match="unknown crop 'bottom'"):
    square(gradient(), 16, 'bottom')


def test_large_jpegs_are_decoded_smaller():
  data = jpeg(gradient(800, 600), quality=95)
  assert images.decode(data).size == (600, 800)
  assert images.decode(data, 600).size == (600, 800)
  assert images.decode(data, 150).size == (300, 400)
  assert images.decode(data, 30).size == (75, 100)
  full, reduced = (images.square(images.decode(data, side), 64).astype(int) for side in (None, 64))
  np.testing.assert_allclose(reduced, full, atol=3)


def test_orientation_of_a_jpeg_that_is_decoded_smaller():
  exif = Image.Exif()
  exif[0x0112] = 6
  turned = np.ascontiguousarray(np.rot90(gradient(800, 600)))
  image = images.decode(jpeg(turned, exif=exif, quality=95), 64)
  assert image.size == (150, 200)
  np.testing.assert_allclose(
      images.square(image, 64).astype(int), square(gradient(800, 600), 64), atol=3)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
  path = save(tmp_path / 'bomb.png', np.zeros((1001, 1000, 3), np.uint8))
  monkeypatch.setattr(images, 'MAX_PIXELS', 1_000_000)
  monkeypatch.setattr(Image.Image, 'load', None)
  with pytest.raises(UserError, match='bomb.png.*1000 x 1001 pixels, more than 1 million'):
    images.load_image(path)


def test_a_small_file_of_many_pixels(tmp_path):
  # 20,000 x 20,000 pixels of one colour: 50 kB that would become 1.2 GB.
  path = tmp_path / 'bomb.png'
  Image.new('1', (20_000, 20_000)).save(path)
  assert path.stat().st_size < 100_000
  with pytest.raises(UserError, match='bomb.png.*400000000 pixels'):
    images.load_image(str(path))


def test_large_files_are_refused(tmp_path, monkeypatch):
  path = save(tmp_path / 'a.png', gradient())
  monkeypatch.setattr(images, 'MAX_FILE_BYTES', 50)
  with pytest.raises(UserError, match='a.png.*larger than'):
    images.load_image(path)


def test_postscript_is_not_run(tmp_path):
  path = tmp_path / 'a.jpg'
  Image.fromarray(gradient()).save(path, 'EPS')
  with pytest.raises(UserError, match='a.jpg.*not an image'):
    images.load_image(str(path))


def test_floating_point_pixels_are_refused(tmp_path):
  path = save(tmp_path / 'a.tiff', np.zeros((20, 20), np.float32))
  with pytest.raises(UserError, match='a.tiff.*floating-point'):
    images.load_image(path)


def test_alpha_of_all_modes():
  image = Image.new('RGBA', (9, 8), (9, 9, 9, 255))
  image.putpixel((2, 1), (9, 9, 9, 0))
  for mode in ('RGBA', 'LA', 'PA'):
    alpha = images.alpha(image.convert(mode))
    assert alpha.dtype == np.uint8 and alpha.shape == (8, 9)
    assert alpha[1, 2] == 0 and (alpha == 255).sum() == 71
  keyed = Image.new('L', (9, 8), 5)
  keyed.info['transparency'] = 5
  assert images.alpha(keyed).max() == 0
  for mode in ('RGB', 'L', 'P', 'CMYK', 'I;16', 'F'):
    assert images.alpha(Image.new(mode, (9, 8))) is None
