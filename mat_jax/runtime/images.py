"""Decoding and square cropping of images of any format."""

from collections.abc import Iterator
import contextlib
import io
import math
import os
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mat_jax.errors import UserError

CROPS = ('top', 'center', 'random_crop')
_SUFFIXES = frozenset({
    '.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.pgm', '.png', '.ppm',
    '.tga', '.tif', '.tiff', '.webp',
})
MIN_SIDE = 8
# Its support widens when it shrinks, which is the antialiasing (Parmar et al., 2022).
RESAMPLING = Image.Resampling.BICUBIC
# What a decoder may be made to unpack: 256 MB of RGB, Pillow's own limit for a warning.
MAX_PIXELS = 89_478_485
# An encoded image is read into memory whole.
MAX_FILE_BYTES = 2**28

# Pillow finds the format by the content: without this list a file named .jpg could reach
# its decoders for PostScript, which start another program.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM', 'TGA', 'JPEG2000', 'AVIF')
# EXIF orientations of images that lie on a side.
_LYING = (5, 6, 7, 8)
# How many times larger than needed a JPEG may be unpacked; its decoder halves for little.
_REDUCING_GAP = 2


def has_image_suffix(name: str) -> bool:
  """Whether a file's name ends as those of images do."""
  return os.path.splitext(name)[1].lower() in _SUFFIXES


def decode(data: bytes, target_side: int | None = None) -> Image.Image:
  """Decodes an image, upright and in RGB.

  Grayscale, palette, CMYK and 16-bit images are converted, transparent ones laid on
  white, EXIF orientations applied; of an animation the first frame counts.

  Args:
    data: an encoded image of at most `MAX_PIXELS` pixels.
    target_side: the side that the image will be shrunk to in the end; a JPEG is then
      decoded at half, a quarter or an eighth of its size while its sides stay twice
      this long at least. None decodes in full.

  Returns:
    The image, mode RGB.

  Raises:
    ValueError: too many pixels or a side below `MIN_SIDE`; and, for files that are
      broken, whatever Pillow's decoders raise.
  """
  return to_rgb(decode_upright(data, target_side))


def decode_upright(data: bytes, target_side: int | None = None) -> Image.Image:
  """Decodes an image and leaves it in its mode, with its transparency; else as `decode`."""
  with Image.open(io.BytesIO(data), formats=FORMATS) as image:
    _check_size(image)
    if target_side:
      _draft(image, target_side)
    image.load()
    # In place: else an upright image would be copied.
    ImageOps.exif_transpose(image, in_place=True)
    return image


def load_image(path: str) -> np.ndarray:
  """Decodes an image file in full; see `decode`.

  Args:
    path: an image file.

  Returns:
    uint8 [H, W, 3] in [0, 255].

  Raises:
    UserError: a missing, unreadable, truncated or too large file, or a side below
      8 pixels.
  """
  with _naming(path), open(path, 'rb') as file:
    return np.asarray(decode(read_limited(file)))


def load_levels(path: str) -> np.ndarray:
  """Decodes an image file in full, as a mask needs it: without rounding 16 bits to 8.

  Args:
    path: an image file.

  Returns:
    uint16 [H, W] of 16-bit greys, else uint8 [H, W, 3] as of `load_image`.

  Raises:
    UserError: as `load_image`.
  """
  with _naming(path), open(path, 'rb') as file:
    image = decode_upright(read_limited(file))
    if image.mode.startswith('I'):
      return np.clip(np.asarray(image), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    return np.asarray(to_rgb(image))


def read_size(path: str) -> tuple[int, int]:
  """Reads how large an image file is, upright, from its header.

  Args:
    path: an image file.

  Returns:
    Width and height in pixels, as `load_image` gives them. Only of a PNG file that tells behind
    its pixels that it lies on its side they are exchanged.

  Raises:
    UserError: a missing or too large file, a header that cannot be read, or a side below
      8 pixels.
  """
  with _naming(path), Image.open(path, formats=FORMATS) as image:
    _check_size(image)
    width, height = image.size
    # Of TIFF files Pillow exchanges them itself; of PNG files its own `getexif` would decode all.
    exif = {} if image.format == 'TIFF' else Image.Image.getexif(image)
    lies = exif.get(ExifTags.Base.Orientation, 1) in _LYING
    return (height, width) if lies else (width, height)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
  """Turns what goes wrong with an image file into a sentence that names it."""
  try:
    yield
  # Pillow's decoders meet broken files with errors of many types.
  except Exception as error:
    raise UserError(
        f'the image {str(path)!r} cannot be read ({reason(error)}); repair or remove it'
    ) from error


def read_limited(file: IO[bytes]) -> bytes:
  """Reads a binary file; ValueError for more than `MAX_FILE_BYTES`."""
  data = file.read(MAX_FILE_BYTES + 1)
  if len(data) > MAX_FILE_BYTES:
    raise ValueError(f'larger than {MAX_FILE_BYTES >> 20} MiB')
  return data


def reason(error: Exception) -> str:
  """What was wrong with an image, without the address of the buffer it was read from."""
  text = str(error).splitlines()[0] if str(error) else type(error).__name__
  return 'not an image' if text.startswith('cannot identify image file') else text


def _check_size(image: Image.Image) -> None:
  if image.width * image.height > MAX_PIXELS:
    raise ValueError(
        f'{image.width} x {image.height} pixels, more than {MAX_PIXELS // 1_000_000} million')
  if min(image.size) < MIN_SIDE:
    raise ValueError(
        f'{image.width} x {image.height} pixels, too small: less than {MIN_SIDE} a side')


def _draft(image: Image.Image, target_side: int) -> None:
  """Sets a JPEG decoder to the smallest size that leaves enough; else does nothing."""
  scale = _REDUCING_GAP * target_side / min(image.size)
  if scale < 1:
    image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def to_rgb(image: Image.Image) -> Image.Image:
  """Converts an image of any mode to RGB, on white where it is transparent."""
  if image.mode == 'RGB' and not image.has_transparency_data:
    return image
  if image.mode == 'F':
    raise ValueError('floating-point pixels, whose range is not known')
  if image.mode.startswith('I'):
    # Pillow would clip 16-bit values to 255 instead of scaling them.
    values = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255)
    image = Image.fromarray(np.rint(values).astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image.convert('RGB')


def alpha(image: Image.Image) -> np.ndarray | None:
  """Returns how opaque an image is: uint8 [H, W], 255 where it is; None without transparency."""
  # Of the 16-bit modes `to_rgb` drops it.
  if not image.has_transparency_data or image.mode.startswith(('I', 'F')):
    return None
  return np.asarray(image.convert('RGBA'))[..., 3]


def square(
    image: Image.Image,
    resolution: int,
    crop: str = 'top',
    rng: np.random.Generator | None = None,
) -> np.ndarray:
  """Cuts a square out of an image and resizes it, with antialiasing.

  Args:
    image: mode RGB.
    resolution: side of the result in pixels; smaller images are enlarged.
    crop: 'top' resizes the short side and keeps the top of a portrait and the centre
      of a landscape format, 'center' the centre. 'random_crop' does as MAT's training
      did: a square of the resolution from any place of the picture in its own size.
    rng: for 'random_crop' only.

  Returns:
    uint8 [resolution, resolution, 3].

  Raises:
    UserError: unknown crop.
  """
  check_crop(crop)
  width, height = image.size
  side = min(width, height)
  if crop == 'random_crop':
    side = min(side, resolution)
    assert rng is not None
    left, top = rng.integers((width - side, height - side), endpoint=True).tolist()
  else:
    left, top = (width - side) // 2, 0 if crop == 'top' else (height - side) // 2
  cut = image.crop((left, top, left + side, top + side)) if side < max(image.size) else image
  return np.asarray(cut.resize((resolution, resolution), RESAMPLING))


def check_crop(crop: str) -> None:
  """Raises a UserError if `square` does not know the crop."""
  if crop not in CROPS:
    raise UserError(f'unknown crop {crop!r}; choose one of {", ".join(CROPS)}')
