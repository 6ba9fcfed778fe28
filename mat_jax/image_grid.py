"""Rows of pictures: image, masked, stage one, result."""

import numpy as np


def to_uint8(x: np.ndarray) -> np.ndarray:
  """[-1, 1] -> uint8, rounded."""
  return np.clip(np.rint((np.asarray(x, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def grid(image: np.ndarray, mask: np.ndarray, stage1: np.ndarray,
         result: np.ndarray) -> np.ndarray:
  """One row per example with the hole painted gray in the second picture.

  Args:
    image: [N, H, W, 3] in [-1, 1].
    mask: [N, H, W, 1].
    stage1: like `image`.
    result: like `image`.

  Returns:
    uint8 [N * (H + gap) - gap, 4 * (W + gap) - gap, 3], white gaps.
  """
  columns = [to_uint8(x) for x in (image, image * mask, stage1, result)]
  gap = max(1, image.shape[1] // 64)
  framed = [np.pad(x, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255) for x in columns]
  rows = np.concatenate(framed, axis=2)
  return rows.reshape(-1, *rows.shape[2:])[:-gap, :-gap]
