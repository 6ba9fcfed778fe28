"""Pictures that show nearly the same."""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest

pytest.importorskip('imagehash')

from input_pipeline.preparing import near_duplicates  # noqa: E402
from tests.support.figures import draw_figure  # noqa: E402

DISTANCE = 72


def painting(seed, size=(90, 120)):
  small = np.random.default_rng(seed).integers(256, size=(12, 9, 3), dtype=np.uint8)
  return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def groups(pictures, distance=DISTANCE):
  return near_duplicates.groups(list(map(near_duplicates.fingerprint, pictures)), distance)


def as_jpeg(image):
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=40)
  return Image.open(file)


@pytest.mark.parametrize('change', [
    as_jpeg, ImageOps.mirror, lambda image: image.resize((300, 400)),
    lambda image: ImageEnhance.Brightness(image).enhance(0.8), lambda image: image.convert('L'),
    lambda image: ImageOps.mirror(as_jpeg(image)), lambda image: image.convert('CMYK')])
def test_versions_of_a_painting_are_near(change):
  assert groups([painting(0), painting(1), change(painting(0)), painting(2)]) == [[0, 2], [1], [3]]


def test_unrelated_paintings_are_not():
  pictures = [painting(seed) for seed in range(40)]
  assert groups(pictures) == [[i] for i in range(40)]


def test_margin_and_hidden_colours_of_a_figure_do_not_count():
  figure = draw_figure()
  moved = Image.new('RGBA', (320, 300), (200, 0, 0, 0))
  moved.paste(figure, (70, 50), figure)
  other = draw_figure(hidden=(0, 0, 0))
  assert groups([figure, moved, other, draw_figure(seed=5, head=(90, 100))], 20) == [[0, 1, 2], [3]]


def test_a_group_is_connected_by_way_of_others():
  bits = np.zeros((4, 256), np.uint8)
  bits[1, :10] = 1
  bits[2, :20] = 1
  bits[3, 100:200] = 1
  hashes = [np.packbits(row).tobytes() for row in bits]
  far = b'\x55' * 32
  prints = [(hashes[i], far) for i in (2, 3, 0, 1)]
  assert near_duplicates.groups(prints, 10) == [[0, 2, 3], [1]]
  assert near_duplicates.groups(prints, 9) == [[0], [1], [2], [3]]


def test_the_picture_is_left_as_it_is():
  image = painting(0, (900, 1200))
  near_duplicates.fingerprint(image)
  assert image.size == (900, 1200)
