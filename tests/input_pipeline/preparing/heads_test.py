"""Where the head of a figure is."""

import numpy as np
from PIL import Image
import pytest

from input_pipeline.preparing import heads
from tests.support.figures import draw_figure


@pytest.mark.parametrize(
    ('size', 'head', 'radius'),
    [((200, 240), (90, 60), 22), ((200, 240), (120, 90), 20), ((400, 400), (200, 80), 45),
     ((300, 200), (130, 50), 18), ((160, 300), (80, 70), 20)])
def test_the_head_of_a_figure_with_a_spear(size, head, radius):
  figure = draw_figure(size, head, radius)
  found = heads.find_head(np.asarray(figure)[..., 3])
  assert np.hypot(found.x - head[0], found.y - head[1]) < 0.5 * radius
  assert 0.6 * radius < found.radius < 1.6 * radius


def test_it_moves_and_grows_with_the_figure():
  figure = draw_figure((200, 240), (90, 60), 22)
  moved = Image.new('RGBA', (300, 340))
  moved.paste(figure, (60, 100))
  first, second = (heads.find_head(np.asarray(image)[..., 3]) for image in (figure, moved))
  assert abs(second.x - first.x - 60) < 8 and abs(second.y - first.y - 100) < 8
  doubled = heads.find_head(np.asarray(figure.resize((400, 480)))[..., 3])
  np.testing.assert_allclose(doubled, np.multiply(first, 2), atol=0.5)


def test_a_painting_has_it_where_portraits_have_it():
  found = heads.find_head(np.full((325, 250), 255, np.uint8))
  assert found.x == 125 and 60 < found.y < 130 and 30 < found.radius < 70


def test_too_little_for_a_figure():
  alpha = np.zeros((100, 100), np.uint8)
  assert heads.find_head(alpha) is None
  alpha[40:60, 40:60] = 255
  assert heads.find_head(alpha) is None
