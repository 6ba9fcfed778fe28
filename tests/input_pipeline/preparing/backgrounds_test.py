"""Backgrounds for pictures with transparency."""

import numpy as np
from PIL import Image
import pytest

from input_pipeline.preparing import backgrounds
from tests.support.figures import draw_figure


def on_muted(image, name='a'):
  return np.asarray(backgrounds.lay_on_muted(image, name)).astype(int)


def test_what_is_opaque_stays_and_what_is_hidden_does_not_show():
  figure = draw_figure(hidden=(255, 0, 255))
  pixels = np.asarray(figure)
  opaque = pixels[..., 3] == 255
  laid = on_muted(figure)
  np.testing.assert_array_equal(laid[opaque], pixels[opaque][:, :3])
  assert laid[~opaque].max() < 240
  np.testing.assert_array_equal(laid, on_muted(draw_figure(hidden=(0, 255, 0))))


def test_a_half_transparent_pixel_is_half_background():
  pixels = np.asarray(draw_figure()).copy()
  background = on_muted(Image.fromarray(pixels))[:4, :4]  # nothing of the figure is there
  pixels[:4, :4] = (200, 100, 0, 51)
  laid = on_muted(Image.fromarray(pixels))[:4, :4]
  assert np.abs(laid - (0.2 * np.array([200, 100, 0]) + 0.8 * background)).max() <= 1


def test_the_background_is_muted_soft_and_not_flat():
  for name in map(str, range(20)):
    figure = draw_figure(seed=int(name))
    empty = np.asarray(figure)[..., 3] == 0
    laid = on_muted(figure, name)
    chroma = laid.max(-1) - laid.min(-1)
    assert chroma[empty].max() < 90 and 10 < laid[empty].mean() < 190
    corner = laid[:40, :40]
    assert np.abs(np.diff(corner, axis=0)).max() <= 3 and np.abs(np.diff(corner, axis=1)).max() <= 3
    assert np.ptp(laid[empty].sum(-1)) > 20


def test_its_colour_comes_from_the_palette():
  pixels = np.zeros((60, 60, 4), np.uint8)
  pixels[10:50, 10:50] = (20, 20, 220, 255)
  pixels[:5] = (255, 0, 0, 60)  # too transparent to count
  laid = on_muted(Image.fromarray(pixels))[10:50, :10]
  assert (laid[..., 2] > laid[..., 0] + 5).all()


def test_the_name_decides():
  figure = draw_figure()
  np.testing.assert_array_equal(on_muted(figure, 'a'), on_muted(figure, 'a'))
  assert np.abs(on_muted(figure, 'a') - on_muted(figure, 'b')).max() > 5
  on_muted(figure, 'no \udcff Unicode')


@pytest.mark.parametrize('mode', ['LA', 'P', 'RGBa'])
def test_all_modes(mode):
  figure = draw_figure()
  if mode == 'P':
    figure = figure.quantize(64)
  else:
    figure = figure.convert(mode)
  laid = backgrounds.lay_on_muted(figure, 'a')
  assert laid.mode == 'RGB' and laid.size == figure.size
  assert np.asarray(laid)[:30, :30].max() < 240


def test_nothing_opaque():
  laid = on_muted(Image.new('RGBA', (20, 20), (255, 255, 255, 0)))
  assert laid.max() < 200
