"""Pixels of picture files in the type that they have there.

libvips reads the common formats at 8 and 16 bits straight into one array; Pillow, which has no
16-bit colours and takes more memory, reads the others.
"""

import threading
from typing import IO

import numpy as np
from PIL import Image

from mat_jax.errors import UserError
from mat_jax.runtime import images

_LOADERS = {'PNG': 'pngload', 'JPEG': 'jpegload', 'WEBP': 'webpload', 'TIFF': 'tiffload'}
_TYPES = {'uchar': np.uint8, 'ushort': np.uint16}
_MAX_CHANNELS = 4
_STRIP_PIXELS = 2**22
_CONVERT = 'convert it to RGB or grey with 8 or 16 bits first, through its colour profile'
_pillow_limit = threading.Lock()


def refuse(path: str, problem: str, advice: str = _CONVERT) -> UserError:
  """The error of a picture file that is sound but of a kind that is not read."""
  return UserError(f'the picture {path!r} cannot be used: {problem}; {advice}')


def open_pillow(file: IO[bytes]) -> Image.Image:
  """Opens a picture in Pillow without its limit of pixels; the caller has to keep one."""
  with _pillow_limit:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
      return Image.open(file, formats=images.FORMATS)
    finally:
      Image.MAX_IMAGE_PIXELS = limit


def open_vips(path: str, format_name: str):
  """Opens a picture in libvips, which reads its header now and its pixels once, in order.

  Args:
    path: the file.
    format_name: 'PNG', 'JPEG', 'WEBP' or 'TIFF'. Its loader is named: left to itself, libvips
      could be led to others by the content.

  Returns:
    The `pyvips.Image`.
  """
  import pyvips

  # 'error' is the first level at which TIFF files of unknown compression are not read as black.
  options = {'access': 'sequential', 'fail_on': 'error', 'revalidate': True}
  if format_name != 'WEBP':
    options['unlimited'] = True  # of pixels and profiles, for which our own limits stand
  return pyvips.Operation.call(_LOADERS[format_name], path, **options)


def decode(path: str, format_name: str) -> np.ndarray:
  """Decodes the pixels of a file that `headers.read_header` has let pass.

  Args:
    path: the file.
    format_name: `Header.format`.

  Returns:
    uint8 or uint16 [rows, columns, C] as stored, not turned; 1 channel grey, 2 grey and alpha,
    3 RGB, 4 RGBA.

  Raises:
    UserError: a kind of pixels that is not read.
    Exception: what the decoders raise for a broken file.
  """
  if format_name in _LOADERS:
    return _decode_with_vips(path, format_name)
  with open(path, 'rb') as file, open_pillow(file) as image:
    image.load()
    return _to_array(_plain(image))


def _decode_with_vips(path: str, format_name: str) -> np.ndarray:
  image = open_vips(path, format_name)
  if image.format not in _TYPES or image.bands > _MAX_CHANNELS or image.interpretation == 'cmyk':
    raise refuse(
        path, f'its pixels are {image.bands} x {image.format}, {image.interpretation}')
  # The memory that libvips returns is the array's own from here on, without a copy.
  pixels = np.frombuffer(image.write_to_memory(), _TYPES[image.format])
  return pixels.reshape(image.height, image.width, image.bands)


def _plain(image: Image.Image) -> Image.Image:
  """Converts modes of Pillow that have no channels of their own."""
  if image.mode in ('P', 'PA'):
    return image.convert('RGBA' if image.has_transparency_data else 'RGB')
  if image.mode == '1':
    return image.convert('L')
  if image.mode in ('RGBX', 'RGBa', 'La', 'YCbCr'):
    return image.convert({'RGBa': 'RGBA', 'La': 'LA'}.get(image.mode, 'RGB'))
  return image


def _to_array(image: Image.Image) -> np.ndarray:
  """Copies in strips: at once, Pillow would hold the picture three times."""
  first = np.asarray(image.crop((0, 0, 1, 1)))
  channels = first.shape[2] if first.ndim == 3 else 1
  kind = np.uint16 if image.mode.startswith('I') else np.uint8
  pixels = np.empty((image.height, image.width, channels), kind)
  step = max(_STRIP_PIXELS // image.width, 1)
  for top in range(0, image.height, step):
    bottom = min(top + step, image.height)
    strip = np.asarray(image.crop((0, top, image.width, bottom)))
    # Pillow gives 16-bit greys of PGM files as 32-bit numbers.
    pixels[top:bottom] = np.clip(strip, 0, np.iinfo(kind).max).reshape(bottom - top, -1, channels)
  return pixels
