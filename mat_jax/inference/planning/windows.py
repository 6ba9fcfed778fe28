"""The squares of a picture that the network gets to see, and the randomness of each."""

import dataclasses
import hashlib
import struct
from typing import Literal, NamedTuple

import numpy as np

from mat_jax.inference.planning.holes import Box, Region

Kind = Literal['native', 'resized', 'coarse', 'tile']


@dataclasses.dataclass(frozen=True)
class Window:
  """A square that the network sees, and the pixels that it fills.

  Attributes:
    top: first row; negative where the picture is less high than the window.
    left: first column, likewise.
    side: rows and columns. What lies outside of the picture counts as hole.
    resolution: side of what the network sees, to which the window is resized.
    kind: 'native' at the network's scale, 'resized' at another one, 'coarse' before tiles that
      fill the same pixels, and 'tile' at native scale, one of several in a hole.
    hole: the pixels to fill, in picture coordinates; everything else that is hole and not
      filled yet is unknown to the network, but none of this window's business.
  """

  top: int
  left: int
  side: int
  resolution: int
  kind: Kind
  hole: Region = dataclasses.field(compare=False, repr=False)

  @property
  def enlarge(self) -> float:
    """How much the network's result is enlarged; below 1 it sees the picture magnified."""
    return self.side / self.resolution

  @property
  def box(self) -> Box:
    """The square, which may reach beyond the picture."""
    return Box(self.top, self.left, self.top + self.side, self.left + self.side)

  def hole_in_window(self) -> np.ndarray:
    """The pixels to fill, bool [side, side]."""
    inside, box = np.zeros((self.side, self.side), bool), self.hole.box
    inside[box.top - self.top:box.bottom - self.top,
           box.left - self.left:box.right - self.left] = self.hole.pixels
    return inside


class Enlargement(NamedTuple):
  """How much what fills a hole is enlarged.

  Attributes:
    box: the hole, or several that share a window.
    factor: of the network's result; with tiles, that of the coarse pass.
    tiles: number of tiles that replace the coarse result, 0 without.
  """

  box: Box
  factor: float
  tiles: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """The windows of a picture.

  Attributes:
    waves: they are filled one after the other. Of the windows in a wave, none sees a pixel that
      another one fills, so that they may run as one batch.
    notices: sentences for people.
    enlargements: of every hole that is enlarged more than once, the largest hole first.
  """

  waves: tuple[tuple[Window, ...], ...]
  notices: tuple[str, ...]
  enlargements: tuple[Enlargement, ...]

  @property
  def windows(self) -> tuple[Window, ...]:
    """All windows in the order of filling."""
    return tuple(window for wave in self.waves for window in wave)


def place_key(window: Window) -> int:
  """A number from 0 to 2**32 - 1 that tells windows apart by their place.

  It is the 4-byte BLAKE2s digest (RFC 7693) of top, left and side, as signed 64-bit
  integers, all of them little-endian; the same on every machine and in every version.
  """
  return _digest('<3q', window.top, window.left, window.side)


def window_seed(seed: int, window: Window) -> int:
  """The seed of a window, which depends on nothing but an answer's seed and the place.

  Args:
    seed: of an answer, taken modulo 2**32.
    window: its place.

  Returns:
    A number from 0 to 2**32 - 1, the digest as in `place_key` of the two 32-bit numbers.
  """
  return _digest('<2I', seed % 2**32, place_key(window))


def _digest(layout: str, *values: int) -> int:
  digest = hashlib.blake2s(struct.pack(layout, *values), digest_size=4).digest()
  return int.from_bytes(digest, 'little')
