"""Small copies of pictures, of 8 bits, for a browser to show."""

import os

import numpy as np
from PIL import Image

from mat_jax.inference.planning.holes import Box
from mat_jax.pictures.pictures import Picture
from mat_jax.runtime.storage import new_files

MAX_SIDE = 1600  # pixels: more than a page shows, and little enough to draw on without delay
_STRIP_PIXELS = 2**24
_TINT = (230, 0, 120)
_TINT_SHARE = 0.6


def preview_size(size: tuple[int, int], max_side: int = MAX_SIDE) -> tuple[int, int]:
  """Width and height of the preview of a picture of this width and height."""
  scale = min(max_side / max(size), 1.0)
  return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def preview(pixels: np.ndarray, max_side: int = MAX_SIDE) -> Image.Image:
  """A copy of 8 bits with at most so many pixels on the longer side.

  It is made strip by strip, so that a large picture is never copied in full.

  Args:
    pixels: uint8 or uint16 [H, W, C], as in `Picture`.
    max_side: limit; smaller pictures keep their size.
  """
  height, width = pixels.shape[:2]
  size = preview_size((width, height), max_side)
  factor = max(max(height, width) // max_side, 1)
  step = factor * max(_STRIP_PIXELS // (width * factor), 1)
  strips = [np.asarray(_image(pixels[top:top + step]).reduce(factor))
            for top in range(0, height, step)]
  shrunk = Image.fromarray(np.concatenate(strips))
  # Where the factor does not divide a side, the last pixel stands for less than the others do.
  box = (0, 0, width / factor, height / factor)
  return shrunk.resize(size, Image.Resampling.BICUBIC, box) if shrunk.size != size else shrunk


def detail_box(hole: np.ndarray, least: int = 128) -> Box | None:
  """The part of a picture around its holes, None if that is most of the picture.

  Args:
    hole: bool [H, W], not empty.
    least: its least height and width, where the picture has as much.
  """
  spans = []
  for axis in (1, 0):
    places = np.flatnonzero(hole.any(axis=axis))
    first, last, length = int(places[0]), int(places[-1]) + 1, hole.shape[1 - axis]
    margin = max((last - first) // 2, (least - (last - first)) // 2, 0)
    spans.append((max(first - margin, 0), min(last + margin, length)))
  (top, bottom), (left, right) = spans
  if max((bottom - top) / hole.shape[0], (right - left) / hole.shape[1]) > 0.7:
    return None
  return Box(top, left, bottom, right)


def tinted(image: Image.Image, area: np.ndarray) -> Image.Image:
  """A preview with an area in a signal colour, through which the picture is seen.

  Args:
    image: of any mode of `preview`.
    area: bool [h, w], of its size.
  """
  pixels = np.asarray(image.convert('RGBA')).copy()
  colour = np.array((*_TINT, 255), np.float32)
  mixed = pixels[area] * (1 - _TINT_SHARE) + colour * _TINT_SHARE
  pixels[area] = np.rint(mixed).astype(np.uint8)
  return Image.fromarray(pixels)


def save(path: str, image: Image.Image, picture: Picture) -> str:
  """Writes a preview as a PNG file, with the colour profile of its picture; returns its path."""
  icc = picture.metadata.icc
  options = {'icc_profile': icc} if icc and image.mode.startswith('L') == picture.is_grey else {}
  with new_files.new_file(path) as file:
    image.save(file, format='PNG', compress_level=1, **options)
  return os.path.realpath(path)


def _image(pixels: np.ndarray) -> Image.Image:
  """L, LA, RGB or RGBA."""
  if pixels.dtype == np.uint16:
    pixels = (pixels >> 8).astype(np.uint8)
  return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
