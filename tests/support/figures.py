"""Small figures that were cut out of their background, for tests."""

import cv2
import numpy as np
from PIL import Image


def draw_figure(size=(200, 240), head=(90, 60), radius=22, seed=0, hidden=(255, 255, 255)):
  """RandomInputs a figure with a head, shoulders and a spear.

  Args:
    size: width and height.
    head: centre of the head.
    radius: half of its width.
    seed: of the colours.
    hidden: colour of the pixels that are not visible.

  Returns:
    The picture, mode RGBA.
  """
  rng = np.random.default_rng(seed)
  width, height = size
  x, y = head
  alpha = np.zeros((height, width), np.uint8)
  cv2.ellipse(alpha, (x, y), (radius, round(1.2 * radius)), 0, 0, 360, 255, -1)
  cv2.rectangle(alpha, (x - radius // 2, y), (x + radius // 2, y + 2 * radius), 255, -1)
  body = [(x - 3 * radius, height), (x - 2 * radius, y + 2 * radius),
          (x + 2 * radius, y + 2 * radius), (x + 3 * radius, height)]
  cv2.fillPoly(alpha, [np.array(body, np.int32)], 255)
  cv2.line(alpha, (x + 3 * radius, 0), (x + 2 * radius, height), 255, 3)
  small = rng.integers(256, size=(6, 5, 3), dtype=np.uint8)
  colors = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
  colors[alpha == 0] = hidden
  return Image.fromarray(np.dstack([colors, alpha]))
