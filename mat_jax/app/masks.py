"""The hole: what is drawn on a preview and what a mask file says, in pixels of the picture."""

from collections.abc import Sequence

import numpy as np

from mat_jax.errors import UserError


def touched(layers: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
  """The pixels of a preview that were drawn on, however lightly.

  Args:
    layers: uint8 [h, w, 4] of the canvas; everything that is not transparent counts.
    size: width and height of the preview.

  Returns:
    bool [h, w].

  Raises:
    UserError: layers of another size, which belong to another preview.
  """
  found = np.zeros((size[1], size[0]), bool)
  for layer in layers:
    if layer.shape[:2] != found.shape:
      raise UserError(f'the drawing is {layer.shape[1]} x {layer.shape[0]}, the preview '
                      f'{size[0]} x {size[1]}; load the picture again and draw anew')
    found |= layer[..., 3] > 0
  return found


def scale_back(area: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """An area of a preview in pixels of the picture, rather too large than too small.

  Args:
    area: bool [h, w].
    size: width and height of the picture, no smaller.

  Returns:
    bool [H, W], True for every pixel that lies under a marked pixel of the preview, be it in part.
  """
  for axis, length in enumerate((size[1], size[0])):
    first, last = _under(area.shape[axis], length)
    area = np.take(area, first, axis) | np.take(area, last, axis)
  return area


def _under(small: int, large: int) -> tuple[np.ndarray, np.ndarray]:
  """The first and last of `small` intervals that each of `large` intervals touches."""
  if small > large:
    raise ValueError(f'a preview of {small} pixels of a picture of {large}')
  places = np.arange(large)
  return places * small // large, ((places + 1) * small - 1) // large


def shrink(area: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """An area of a picture in pixels of its preview; marked if any pixel under it is.

  Args:
    area: bool [H, W].
    size: width and height of the preview, no larger.
  """
  for axis, length in enumerate((size[1], size[0])):
    starts = np.arange(length) * area.shape[axis] // length
    area = np.logical_or.reduceat(area, starts, axis)
  return area

