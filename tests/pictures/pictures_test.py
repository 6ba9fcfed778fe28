"""Picture files in their own type: what is read, written and painted."""

import cv2
import numpy as np
from PIL import Image
import pytest
import tifffile

from mat_jax.errors import UserError
from mat_jax.pictures import encoding, pictures
from mat_jax.pictures.pictures import Metadata, Picture
from tests.support.picture_files import noise, smooth, write

LAYOUTS = [(kind, channels) for kind in (np.uint8, np.uint16) for channels in (1, 2, 3, 4)]
LOSSLESS = ('.png', '.tif', '.tiff')


@pytest.mark.parametrize('suffix', LOSSLESS)
@pytest.mark.parametrize(('kind', 'channels'), LAYOUTS)
def test_pixels_come_back_in_their_own_type(tmp_path, suffix, kind, channels):
  pixels = noise(kind, channels)
  path = write(tmp_path / f'a{suffix}', pixels)
  picture = pictures.read_picture(path)
  assert picture.pixels.dtype == kind
  np.testing.assert_array_equal(picture.pixels, pixels)
  assert picture.size == pictures.picture_size(path) == (11, 13)
  assert picture.bits == 8 * np.dtype(kind).itemsize
  assert (picture.is_grey, picture.has_alpha) == (channels < 3, channels in (2, 4))
  picture.pixels[0] = 0  # is writable


@pytest.mark.parametrize('channels', [3, 4])
def test_webp_keeps_colours_even_where_they_are_transparent(tmp_path, channels):
  pixels = noise(channels=channels)
  pixels[:5, :, 3:] = 0
  picture = pictures.read_picture(write(tmp_path / 'a.webp', pixels))
  np.testing.assert_array_equal(picture.pixels, pixels)
  assert picture.format == 'WEBP' and picture.suffix == '.webp'


@pytest.mark.parametrize('channels', [1, 2])
def test_greys_become_rgb_in_webp(tmp_path, channels):
  pixels = noise(channels=channels)
  found = pictures.read_picture(write(tmp_path / 'a.webp', pixels)).pixels
  np.testing.assert_array_equal(found[..., :3], pixels[..., :1].repeat(3, -1))
  np.testing.assert_array_equal(found[..., 3:], pixels[..., 1:])


@pytest.mark.parametrize('channels', [1, 3])
def test_jpeg_is_close(tmp_path, channels):
  path = write(tmp_path / 'a.jpg', smooth()[..., :channels])
  found = pictures.read_picture(path).pixels
  np.testing.assert_allclose(found.astype(int), smooth()[..., :channels], atol=4)
  assert not pictures.is_lossless(path)
  assert all(pictures.is_lossless(f'a{suffix}') for suffix in (*LOSSLESS, '.WEBP'))


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_another_library_agrees(tmp_path, suffix, kind, channels):
  pixels = noise(kind, channels)
  order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]  # OpenCV begins with blue
  theirs = str(tmp_path / f'theirs{suffix}')
  cv2.imwrite(theirs, pixels[..., order])
  np.testing.assert_array_equal(pictures.read_picture(theirs).pixels, pixels)
  if (suffix, kind, channels) == ('.tif', np.uint8, 4):
    return  # OpenCV reads these multiplied by alpha
  ours = cv2.imread(write(tmp_path / f'ours{suffix}', pixels), cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(ours.reshape(pixels.shape)[..., order], pixels)


@pytest.mark.parametrize('shape', [(1, 1), (1, 4000), (4000, 1)])
@pytest.mark.parametrize('suffix', ['.png', '.tif', '.webp', '.jpg'])
def test_narrow_pictures(tmp_path, suffix, shape):
  path = write(tmp_path / f'a{suffix}', np.full((*shape, 3), 77, np.uint8))
  np.testing.assert_allclose(pictures.read_picture(path).pixels, 77, atol=1)


def test_palettes_two_colours_and_keyed_transparency(tmp_path):
  indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
  palette = Image.fromarray(indices)
  colours = np.array([[9, 8, 7], [255, 0, 1], [4, 5, 6]], np.uint8)
  palette.putpalette(colours.tobytes())
  palette.save(tmp_path / 'p.png')
  palette.save(tmp_path / 'p.tif')
  palette.save(tmp_path / 'p.gif')
  palette.save(tmp_path / 't.png', transparency=1)
  for name in ('p.png', 'p.tif', 'p.gif'):
    np.testing.assert_array_equal(
        pictures.read_picture(tmp_path / name).pixels, colours[indices])
  found = pictures.read_picture(tmp_path / 't.png').pixels
  np.testing.assert_array_equal(found[..., :3], colours[indices])
  np.testing.assert_array_equal(found[..., 3], (indices != 1) * 255)
  Image.fromarray(indices > 1).save(tmp_path / '1.png')
  Image.fromarray(indices > 1).save(tmp_path / '1.tif')
  for name in ('1.png', '1.tif'):
    np.testing.assert_array_equal(
        pictures.read_picture(tmp_path / name).pixels[..., 0], (indices > 1) * 255)


def test_kinds_of_tiff(tmp_path):
  wide = noise(np.uint16)
  planes = np.moveaxis(wide, -1, 0)
  tifffile.imwrite(tmp_path / 'planes.tif', planes, photometric='rgb', planarconfig='separate')
  tifffile.imwrite(tmp_path / 'tiles.tif', wide, photometric='rgb', tile=(16, 16), byteorder='>')
  tifffile.imwrite(tmp_path / 'big.tif', wide, photometric='rgb', bigtiff=True)
  for name in ('planes.tif', 'tiles.tif', 'big.tif'):
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / name).pixels, wide)
  inverse = np.iinfo(np.uint16).max - wide[..., 0]
  tifffile.imwrite(tmp_path / 'white.tif', inverse, photometric='miniswhite')
  np.testing.assert_array_equal(
      pictures.read_picture(tmp_path / 'white.tif').pixels[..., 0], wide[..., 0])


def test_colours_multiplied_by_alpha_are_divided(tmp_path):
  pixels = np.array([[[50, 20, 10, 128], [50, 20, 10, 255]]], np.uint8)
  tifffile.imwrite(tmp_path / 'a.tif', pixels, photometric='rgb', extrasamples=['assocalpha'])
  np.testing.assert_allclose(pictures.read_picture(tmp_path / 'a.tif').pixels.astype(int),
                             [[[100, 40, 20, 128], [50, 20, 10, 255]]], atol=1)


def test_other_formats_are_read_and_say_so(tmp_path, caplog):
  Image.fromarray(noise()).save(tmp_path / 'a.bmp')
  picture = pictures.read_picture(tmp_path / 'a.bmp')
  np.testing.assert_array_equal(picture.pixels, noise())
  assert picture.format == 'BMP' and picture.suffix == '.png'
  assert 'a.bmp is a BMP file' in caplog.text
  grey = noise(np.uint16, 1)[..., 0]
  Image.fromarray(grey).save(tmp_path / 'a.pgm')
  np.testing.assert_array_equal(pictures.read_picture(tmp_path / 'a.pgm').pixels[..., 0], grey)


def test_a_file_that_has_changed_is_read_anew(tmp_path):
  for seed in range(3):
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), np.uint8)
    path = write(tmp_path / 'a.png', pixels, overwrite=True)
    np.testing.assert_array_equal(pictures.read_picture(path).pixels, pixels)


def test_nothing_is_overwritten_unless_told(tmp_path):
  path = write(tmp_path / 'a.png', noise())
  with pytest.raises(UserError, match='a.png exists'):
    write(path, noise() // 2)
  np.testing.assert_array_equal(pictures.read_picture(path).pixels, noise())
  write(path, noise() // 2, overwrite=True)
  np.testing.assert_array_equal(pictures.read_picture(path).pixels, noise() // 2)


@pytest.mark.parametrize(('name', 'pixels', 'message'), [
    ('a.jpg', noise(channels=4), 'a.jpg cannot hold transparency; name the output .*a.png'),
    ('a.jpg', noise(np.uint16), 'a.jpg cannot hold 16 bits a channel; name the output'),
    ('a.webp', noise(np.uint16), 'a.webp cannot hold 16 bits'),
    ('a.webp', np.zeros((1, 16_384, 3), np.uint8), 'at most 16,383 a side'),
    ('a.jpg', np.zeros((65_501, 1, 3), np.uint8), 'at most 65,500 a side'),
    ('a.gif', noise(), 'a.gif has no suffix of a format that is written; choose one of .png'),
    ('a', noise(), 'no suffix'),
])
def test_what_a_format_cannot_hold(tmp_path, name, pixels, message):
  with pytest.raises(UserError, match=message):
    write(tmp_path / name, pixels)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['png', 'tiff', 'jpeg', 'webp'])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, suffix):

  def fail(file, *args):
    file.write(b'x')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(encoding, f'write_{suffix}', fail)
  with pytest.raises(UserError, match='cannot be written: No space left on device'):
    write(tmp_path / f'a.{suffix}', noise())
  assert not list(tmp_path.iterdir())


def test_errors_of_writing_pass_through_libvips():

  class Full:
    def write(self, data):
      raise OSError(28, 'No space left on device')

  with pytest.raises(OSError, match='No space left'):
    encoding.write_png(Full(), noise(), Metadata(), {})


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_all_levels_pass_through_the_networks_range(kind, channels):
  levels = np.arange(np.iinfo(kind).max + 1, dtype=kind).reshape(16, -1, 1)
  pixels = levels.repeat(channels, -1)
  rgb = pictures.to_rgb(pixels)
  assert rgb.dtype == np.float32 and rgb.shape == (*levels.shape[:2], 3)
  assert rgb.min() == -1 and rgb.max() == 1
  back = pictures.from_rgb(rgb, pixels)
  assert back.dtype == kind and back.shape[2] == (1 if channels < 3 else 3)
  np.testing.assert_array_equal(back, levels.repeat(back.shape[2], -1))


def test_colours_of_the_network_are_clipped_and_weighed():
  rgb = np.array([[[1.5, -2, 0]]], np.float32)
  like = np.zeros((5, 5, 4), np.uint8)
  assert pictures.from_rgb(rgb, like).tolist() == [[[255, 0, 128]]]
  red = np.array([[[1, -1, -1]]], np.float32)
  assert pictures.from_rgb(red, like[..., :2]).tolist() == [[[76]]]  # 0.299 * 255


@pytest.mark.parametrize('opaque', [False, True])
@pytest.mark.parametrize(('kind', 'channels'), LAYOUTS)
def test_only_the_hole_is_painted(kind, channels, opaque):
  pixels, before = noise(kind, channels), noise(kind, channels)
  colours = np.full((3, 4, 1 if channels < 3 else 3), 7, kind)
  hole = np.zeros((3, 4), bool)
  hole[1, 2] = hole[2, 0] = True
  pictures.paste(pixels, 5, 6, colours, hole, opaque)
  expected = before.copy()
  for row, column in ((6, 8), (7, 6)):
    expected[row, column, :colours.shape[2]] = 7
    if opaque and channels in (2, 4):
      expected[row, column, -1] = np.iinfo(kind).max
  np.testing.assert_array_equal(pixels, expected)


def test_colours_beyond_the_picture_are_a_mistake():
  for top, left, kind in ((12, 0, np.uint8), (-1, 0, np.uint8), (0, 0, np.uint16)):
    with pytest.raises(ValueError, match='do not fit'):
      pictures.paste(noise(), top, left, np.zeros((2, 2, 3), kind), np.ones((2, 2), bool))
  with pytest.raises(ValueError, match='float32'):
    Picture(np.zeros((2, 2, 3), np.float32))


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_transparency_tells_the_hole(kind):
  pixels = np.full((4, 5, 4), np.iinfo(kind).max, kind)
  pixels[1, 2, 3] -= 1
  pixels[3, 4, 3] = 0
  hole = pictures.alpha_hole(Picture(pixels))
  assert np.argwhere(hole).tolist() == [[1, 2], [3, 4]]
  with pytest.raises(UserError, match='no transparency'):
    pictures.alpha_hole(Picture(pixels[..., :3]))
