"""A picture while its holes are filled: the original, and patches on it.

A completion of a large picture takes the memory of what is filled, not that of a copy.
"""

from typing import NamedTuple

import numpy as np

from mat_jax.inference.planning.windows import Window
from mat_jax.pictures.pictures import paste


class _Patch(NamedTuple):
  top: int
  left: int
  colours: np.ndarray
  hole: np.ndarray


class Canvas:
  """One completion of a picture."""

  def __init__(self, pixels: np.ndarray, is_opaque: bool = False):
    """Begins with the original.

    Args:
      pixels: [H, W, C] as of `mat_jax.pictures`; not changed.
      is_opaque: whether filled pixels lose their transparency.
    """
    self.pixels = pixels
    self._is_opaque = is_opaque
    self._patches: list[_Patch] = []

  def write(self, top: int, left: int, colours: np.ndarray, hole: np.ndarray) -> None:
    """Fills pixels.

    Args:
      top: first row, inside the picture.
      left: first column.
      colours: [h, w, 1 or 3] of the picture's type, without alpha.
      hole: bool [h, w], what to fill.
    """
    self._patches.append(_Patch(top, left, colours, hole))

  def read(self, window: Window) -> np.ndarray:
    """The pixels of a window, filled as far as they are, [side, side, C]; 0 outside."""
    out = np.zeros((window.side, window.side, self.pixels.shape[2]), self.pixels.dtype)
    rows, columns = inside(window, self.pixels.shape[:2])
    part = out[rows.start - window.top:rows.stop - window.top,
               columns.start - window.left:columns.stop - window.left]
    part[...] = self.pixels[rows, columns]
    for patch in self._patches:
      self._overlay(part, rows.start, columns.start, patch)
    return out

  def picture(self) -> np.ndarray:
    """A copy of the whole, filled as far as it is, [H, W, C]."""
    out = self.pixels.copy()
    for patch in self._patches:
      self._overlay(out, 0, 0, patch)
    return out

  def _overlay(self, target: np.ndarray, top: int, left: int, patch: _Patch) -> None:
    """Writes what a patch and a part of the picture, whose corner is given, have in common."""
    height, width = patch.hole.shape
    first, last = max(top, patch.top), min(top + target.shape[0], patch.top + height)
    begin, end = max(left, patch.left), min(left + target.shape[1], patch.left + width)
    if first < last and begin < end:
      own = slice(first - patch.top, last - patch.top), slice(begin - patch.left, end - patch.left)
      paste(target, first - top, begin - left, patch.colours[own], patch.hole[own],
            self._is_opaque)


def inside(window: Window, size: tuple[int, ...]) -> tuple[slice, slice]:
  """The rows and columns of a window that lie in a picture of [H, W]."""
  return tuple(slice(max(start, 0), min(start + window.side, stop))  # type: ignore[return-value]
               for start, stop in zip((window.top, window.left), size, strict=True))
