"""Of `benchmarks.measured.windows`, with the smallest generator."""

import numpy as np
import pytest

from benchmarks.measured import windows
from mat_jax.errors import UserError
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.planning.holes import find_holes
from tests.support import small_generator


def test_the_holes_are_apart():
  image, hole = windows.picture_with_holes(300, 200, 5, 6)
  assert image.shape == (200, 300, 3) and image.std() > 20
  holes = find_holes(hole)
  assert len(holes) == 5
  assert set(holes.sizes.tolist()) <= set(range(100, 125))  # about pi 6 ** 2
  centres = (holes.boxes[:, :2] + holes.boxes[:, 2:]) / 2
  gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e9 * np.eye(5)
  assert gaps.min() > 70


def test_a_round_is_as_many_windows_as_passes(tmp_path):
  inpainter = Inpainter(small_generator.checkpoint())
  image, hole = windows.picture_with_holes(400, 150, 2, 5)
  seconds = windows.measure(inpainter, image, hole, 2, str(tmp_path), 2)
  assert {name: len(values) for name, values in seconds.items()} == {
      'arrays': 2, 'files': 2, 'network': 2}
  assert min(min(values) for values in seconds.values()) > 0
  assert (tmp_path / 'out.png').exists()
  with pytest.raises(UserError, match='take 2 windows instead of 3'):
    windows.measure(inpainter, image, hole, 3, str(tmp_path), 1)
