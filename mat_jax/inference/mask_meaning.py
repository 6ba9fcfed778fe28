"""Which pixels of a mask file are the hole: tools differ.

This project keeps what is white, as MAT does; IOPaint, diffusers and LaMa fill what is white.
"""

from typing import NamedTuple

import numpy as np

from mat_jax.errors import UserError
from mat_jax.pictures.pictures import Picture
from mat_jax.runtime.mask_values import Mask

HOLES = ('auto', 'black', 'white', 'alpha')


class Meaning(NamedTuple):
  """How a mask was understood.

  Attributes:
    hole: 'black' or 'white'.
    reason: a clause that says why, for people.
  """

  hole: str
  reason: str


class Understood(NamedTuple):
  """A mask, and how it was understood."""

  mask: Mask
  meaning: Meaning


def understand(picture: Picture, hole: str) -> Understood:
  """What a picture of a mask keeps.

  Args:
    picture: the mask. What is transparent in it is kept, whatever its colour.
    hole: 'black', 'white', or 'auto' to guess. Greys are hole in both.

  Returns:
    The mask and its meaning.

  Raises:
    UserError: another `hole`.
  """
  if hole not in ('auto', 'black', 'white'):
    raise UserError(f"the hole of a mask file cannot be {hole!r}; choose 'black', 'white' or "
                    "'auto'")
  colours = picture.pixels[..., :1 if picture.is_grey else 3]
  seen = np.ones(colours.shape[:2], bool)
  if picture.has_alpha:
    seen = picture.pixels[..., -1] > 0
  white, black = ((colours == value).all(-1) for value in (np.iinfo(colours.dtype).max, 0))
  meaning = guess(white, seen) if hole == 'auto' else Meaning(hole, 'as was asked for')
  keep = (white if meaning.hole == 'black' else black) | ~seen
  return Understood(Mask(keep[..., None], int(np.count_nonzero(~(white | black) & seen))), meaning)


def guess(white: np.ndarray, seen: np.ndarray) -> Meaning:
  """Guesses which of black and white is the hole.

  A hole is the smaller part of most masks, and seldom the larger part of the picture's edge. In a
  mask with transparency, that is what is kept, and the hole is what was painted.

  Args:
    white: bool [H, W].
    seen: bool [H, W], False where it is transparent.
  """
  if not seen.all():
    painted = float(white[seen].mean()) if seen.any() else 0.0
    return Meaning('white' if painted >= 0.5 else 'black',
                   f'guessed, as {painted:.0%} of what is not transparent are white')
  edge = np.concatenate([white[0], white[-1], white[1:-1, 0], white[1:-1, -1]])
  share, at_edge = float(white.mean()), float(edge.mean())
  return Meaning('black' if share + at_edge >= 1 else 'white',
                 f'guessed, as {share:.0%} of the mask and {at_edge:.0%} of its edge are white')


def check(hole: str, field: str = '--hole') -> None:
  """Raises UserError for a meaning that does not exist."""
  if hole not in HOLES:
    raise UserError(f'{field} is {hole!r}; choose one of {", ".join(HOLES)}')
