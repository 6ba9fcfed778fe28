import numpy as np
from PIL import Image
import pytest

from mat_jax.app import previews
from mat_jax.pictures.picture_metadata import Metadata
from mat_jax.pictures.pictures import Picture
from tests.support import picture_files


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels,mode', [(1, 'L'), (2, 'LA'), (3, 'RGB'), (4, 'RGBA')])
def test_small_pictures_keep_their_pixels(kind, channels, mode):
  pixels = picture_files.noise(kind, channels)
  found = previews.preview(pixels)
  assert found.mode == mode and found.size == (11, 13)
  expected = pixels if kind == np.uint8 else pixels // 256
  np.testing.assert_array_equal(np.asarray(found).reshape(pixels.shape), expected)


def test_large_pictures_are_shrunk_in_place(monkeypatch):
  monkeypatch.setattr(previews, '_STRIP_PIXELS', 5000)  # many strips
  rows, columns = np.mgrid[:1003, :701]
  pixels = np.stack([rows * 255 / 1002, columns * 255 / 700, rows * 0 + 9], -1).astype(np.uint8)
  found = np.asarray(previews.preview(pixels, 100), np.float32)
  assert found.shape == (100, 70, 3)
  expected = np.linspace(0, 255, 201)[1::2]
  np.testing.assert_allclose(found[:, 30, 0], expected, atol=2)
  np.testing.assert_allclose(found[40, :, 1], np.linspace(0, 255, 141)[1::2], atol=2)


@pytest.mark.parametrize('size,expected', [
    ((1600, 900), (1600, 900)), ((3200, 1000), (1600, 500)), ((1, 4000), (1, 1600))])
def test_the_longer_side_is_limited(size, expected):
  assert previews.preview_size(size) == expected


def test_the_detail_is_around_the_holes():
  hole = np.zeros((1000, 2000), bool)
  hole[500:700, 600:1000] = True
  assert previews.detail_box(hole) == (400, 400, 800, 1200)
  hole[:, 0] = True
  assert previews.detail_box(hole) is None
  hole[:] = False
  hole[999, 1999] = True
  top, left, bottom, right = previews.detail_box(hole)
  assert (bottom, right) == (1000, 2000) and bottom - top >= 64 and right - left >= 64


def test_a_tint_lets_the_picture_through():
  image = Image.fromarray(picture_files.smooth())
  area = np.zeros((40, 30), bool)
  area[10:20, 5:9] = True
  found = np.asarray(previews.tinted(image, area))[..., :3]
  before = np.asarray(image)
  np.testing.assert_array_equal(found[~area], before[~area])
  assert (found[area] != before[area]).any(-1).all() and found[area].std(0).max() > 5


def test_previews_keep_the_colour_profile(tmp_path):
  picture = Picture(picture_files.noise(), Metadata(icc=picture_files.profile()))
  path = previews.save(str(tmp_path / 'a.png'), previews.preview(picture.pixels), picture)
  with Image.open(path) as image:
    assert image.info['icc_profile'] == picture_files.profile()
