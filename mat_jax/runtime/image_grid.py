"""Grids of pictures, and PNG files."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mat_jax.runtime.storage import new_files


def to_uint8(x: np.ndarray) -> np.ndarray:
  """[-1, 1] -> uint8, rounded; uint8 stays as it is."""
  if x.dtype == np.uint8:
    return x
  return np.clip(np.rint((np.asarray(x, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def grid(columns: Sequence[np.ndarray]) -> np.ndarray:
  """One row per example, one column per array.

  Args:
    columns: arrays [N, H, W, 3], uint8 or in [-1, 1].

  Returns:
    uint8 [N * (H + gap) - gap, columns * (W + gap) - gap, 3], white gaps.
  """
  gap = max(1, columns[0].shape[1] // 64)
  framed = [np.pad(to_uint8(x), ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
            for x in columns]
  rows = np.concatenate(framed, axis=2)
  return rows.reshape(-1, *rows.shape[2:])[:-gap, :-gap]


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
  """Repeats pixels; factors under 2 change nothing."""
  return image if factor < 2 else image.repeat(factor, axis=0).repeat(factor, axis=1)


def write_png(path: str, image: np.ndarray) -> None:
  """Writes uint8 [H, W, 3]; UserError if it cannot be written, and nothing is there then."""
  with new_files.new_file(path) as file:
    Image.fromarray(image).save(file, format='PNG')
