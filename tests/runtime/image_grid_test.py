import os

import numpy as np
from PIL import Image

from mat_jax.runtime import image_grid


def test_grid_puts_examples_in_rows_and_arrays_in_columns():
  black, white = -np.ones((2, 64, 64, 3)), np.ones((2, 64, 64, 3))
  picture = image_grid.grid([black, white, black])
  assert picture.shape == (2 * 65 - 1, 3 * 65 - 1, 3) and picture.dtype == np.uint8
  assert np.all(picture[:64, :64] == 0) and np.all(picture[65:, 130:] == 0)
  assert np.all(picture[:, 64:130] == 255) and np.all(picture[64] == 255)


def test_png_is_written_whole(tmp_path):
  path = str(tmp_path / 'x.png')
  image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  image_grid.write_png(path, image)
  np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
  assert os.listdir(tmp_path) == ['x.png']
