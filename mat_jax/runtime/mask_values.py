"""The meaning of mask values, the same for arrays and for files.

White is kept, and all else is hole: what a soft brush left grey is not known for certain.
"""

from typing import NamedTuple

import numpy as np

from mat_jax.errors import UserError
from mat_jax.runtime import images


class Mask(NamedTuple):
  """A mask as it was understood.

  Attributes:
    keep: bool [H, W, 1], True where a pixel is kept, False in the hole.
    grey: number of pixels, all in the hole, that are neither black nor white.
  """

  keep: np.ndarray
  grey: int

  def notice(self, name: str) -> str:
    """A sentence about the grey pixels of the mask called `name`, '' without any."""
    if not self.grey:
      return ''
    return (f'{name}: {self.grey:,} of {self.keep.size:,} pixels are neither black nor white and '
            'count as hole; soft brushes and JPEG leave such pixels, a PNG file in black and '
            'white has none.')


def read_mask(values: np.ndarray) -> Mask:
  """Tells what is kept from what is hole.

  Args:
    values: [H, W] or [H, W, channels]. White, which alone is kept, is the largest value of the
      type in all channels: True, 255 of uint8, 65,535 of uint16, 1.0 of floats, which have to
      be in [0, 1]. Integers that are all 0 or 1 are treated as bool.

  Returns:
    The mask; a pixel is grey that is neither white nor 0 in all channels.

  Raises:
    UserError: values or types whose white is not known.
  """
  values = np.asarray(values)
  if values.ndim == 2:
    values = values[..., None]
  white = _white(values)
  keep = (values == white).all(-1, keepdims=True)
  black = (values == 0).all(-1, keepdims=True)
  return Mask(keep, int(np.count_nonzero(~(keep | black))))


def load_mask(path: str) -> Mask:
  """Reads a mask file.

  Args:
    path: any image, of which what is white is kept; see `read_mask`. What is
      transparent counts as white.

  Returns:
    The mask.

  Raises:
    UserError: the file is no readable image.
  """
  return read_mask(images.load_levels(path))


def _white(values: np.ndarray) -> int:
  """The value of pixels that are kept."""
  kind, found = values.dtype.kind, ''
  if kind == 'b':
    return 1
  if kind in 'iuf':
    low, high = values.min(initial=0), values.max(initial=0)
    if low >= 0 and high <= 1:
      return 1
    if kind == 'u' and values.dtype.itemsize <= 2:
      return np.iinfo(values.dtype).max
    found = f' with values from {low} to {high}'
  raise UserError(f'the mask is {values.dtype}{found}; give bool, uint8 (255 is kept), uint16 '
                  '(65535 is kept), floats from 0 to 1, or integers 0 and 1')
