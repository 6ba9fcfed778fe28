"""Picture files read and written in the type that they have, with their metadata.

What is not painted over stays bit for bit: 8 or 16 bits, grey or RGB, with or without alpha. For
training, where all pictures become RGB of 8 bits, there is `images`.
"""

from collections.abc import Mapping
import dataclasses
import os

from absl import logging
import numpy as np

from mat_jax.errors import UserError
from mat_jax.pictures import decoding, encoding, headers, picture_metadata
from mat_jax.pictures.picture_metadata import Metadata
from mat_jax.runtime.storage.new_files import new_file

MAX_PIXELS = 500_000_000
_FORMATS = {
    '.png': 'PNG', '.tif': 'TIFF', '.tiff': 'TIFF', '.webp': 'WEBP', '.jpg': 'JPEG',
    '.jpeg': 'JPEG', '.jpe': 'JPEG', '.jfif': 'JPEG',
}
# Suffixes of files that are written.
SUFFIXES = tuple(_FORMATS)
_SUFFIXES = {'PNG': '.png', 'TIFF': '.tif', 'WEBP': '.webp', 'JPEG': '.jpg'}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """A picture in its own type.

  Attributes:
    pixels: uint8 or uint16 [H, W, C], upright; 1 channel is grey, 2 grey and alpha, 3 RGB, 4
      RGBA. Colours are not multiplied by alpha.
    metadata: what the file said besides.
    format: Pillow's name of the format of the file that it came from.
  """

  pixels: np.ndarray
  metadata: Metadata = Metadata()
  format: str = 'PNG'

  def __post_init__(self):
    pixels = self.pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or pixels.dtype not in (
        np.uint8, np.uint16):
      raise ValueError(f'pixels are {pixels.dtype} {pixels.shape}, not uint8 or uint16 [H, W, C]')

  @property
  def has_alpha(self) -> bool:
    """Whether the last channel is alpha."""
    return self.pixels.shape[2] in (2, 4)

  @property
  def is_grey(self) -> bool:
    """Whether there is one channel besides alpha."""
    return self.pixels.shape[2] < 3

  @property
  def bits(self) -> int:
    """Bits a channel, 8 or 16."""
    return 8 * self.pixels.dtype.itemsize

  @property
  def size(self) -> tuple[int, int]:
    """Width and height."""
    return self.pixels.shape[1], self.pixels.shape[0]

  @property
  def suffix(self) -> str:
    """The suffix of a file that can hold the picture and, if possible, has its format."""
    return _SUFFIXES.get(self.format, '.png')

  def with_pixels(self, pixels: np.ndarray) -> 'Picture':
    """The same metadata and format with other pixels."""
    return dataclasses.replace(self, pixels=pixels)


def read_picture(path: str, max_pixels: int = MAX_PIXELS) -> Picture:
  """Reads a picture file in full: PNG, TIFF, JPEG and WebP in their own type, upright.

  Palettes become RGB or RGBA, two colours and greys below 8 bits grey of 8 bits, alpha that
  colours were multiplied by is divided out. BMP, GIF, PPM, TGA, JPEG 2000 and AVIF files are
  read, too, their colours at 8 bits. The content of a file decides on its format.

  Peak memory for RGB of 8 bits was measured as 3.4 bytes a pixel for PNG, TIFF in strips and JPEG
  and 9 for WebP; other types take in proportion. Stored turned, or as TIFF in one packed strip,
  it may be twice as much; BMP and the like take 7.

  Args:
    path: a picture file.
    max_pixels: the limit of width x height.

  Returns:
    The picture; its pixels may be written to.

  Raises:
    UserError: the file is missing, broken or too large, or of a kind that is not read: several
      frames or pages, CMYK, Lab or floating-point pixels, a camera's raw file.
  """
  path = os.fspath(path)
  header = headers.read_header(path)
  width, height = header.size
  if width * height > max_pixels:
    raise UserError(f'the picture {path!r} has {width} x {height} pixels, above the limit of '
                    f'{max_pixels:,}; raise max_pixels if there is memory for it, or shrink it')
  _notice_format(path, header.format)
  with headers.naming(path):
    pixels = decoding.decode(path, header.format)
  return Picture(picture_metadata.turn_upright(pixels, header.orientation), header.metadata,
                 header.format)


def _notice_format(path: str, name: str) -> None:
  """Says what may surprise about the format of a file."""
  suffix = os.path.splitext(path)[1].lower()
  if _FORMATS.get(suffix, name) != name:
    logging.warning('%s is a %s file in spite of its name, and is read as one.', path, name)
  if name not in _SUFFIXES:
    logging.warning('%s is a %s file, whose colours are read at 8 bits; its results are PNG.',
                    path, name)


def picture_size(path: str) -> tuple[int, int]:
  """Reads width and height of the upright picture from a file's header.

  Args:
    path: a picture file.

  Raises:
    UserError: as of `read_picture`, for what the header tells.
  """
  return headers.read_header(os.fspath(path)).size


def picture_format(path: str) -> str:
  """Pillow's name of the format of a file, by its content; UserError as of `picture_size`."""
  return headers.read_header(os.fspath(path)).format


def is_lossless(path: str) -> bool:
  """Whether pixels that are written to a file of this name are read from it unchanged.

  Args:
    path: its suffix decides.

  Raises:
    UserError: a suffix of no format that is written.
  """
  return written_format(os.fspath(path)) != 'JPEG'


def check_writable(path: str, picture: Picture, overwrite: bool = False) -> None:
  """Checks what `write_picture` would refuse, before the work is done.

  Raises:
    UserError: as of `write_picture`.
  """
  path = os.fspath(path)
  encoding.check_fits(path, written_format(path), picture.pixels)
  if os.path.lexists(path) and not overwrite:
    raise UserError(f'{path} exists; choose another output, or allow to overwrite it')


def write_picture(path: str, picture: Picture, text: Mapping[str, str] | None = None,
                  overwrite: bool = False, quality: int = 95) -> None:
  """Writes a picture file with its metadata, in full or not at all.

  PNG, TIFF and WebP files hold the pixels unchanged, JPEG files do not. WebP has no greys, which
  become RGB, and its readers leave alpha out that is opaque everywhere. Besides the picture, RGB
  of 8 bits, there was measured in memory: 0.2 bytes a pixel for PNG and TIFF, 3.4 for JPEG, 31
  for WebP.

  Args:
    path: its suffix decides on the format.
    picture: what to write.
    text: keywords (up to 79 Latin letters) and texts for PNG files; others have no place for
      them, and leave them out.
    overwrite: whether a file that exists is replaced.
    quality: of JPEG files, 1 to 100.

  Raises:
    UserError: an unknown suffix, a file that exists, a format that cannot hold the pixels, or a
      file that cannot be written.
  """
  path = os.fspath(path)
  check_writable(path, picture, overwrite)
  name = written_format(path)
  with new_file(path) as file:
    if name == 'PNG':
      encoding.write_png(file, picture.pixels, picture.metadata, text or {})
    elif name == 'TIFF':
      encoding.write_tiff(file, picture.pixels, picture.metadata)
    elif name == 'WEBP':
      encoding.write_webp(file, picture.pixels, picture.metadata)
    else:
      encoding.write_jpeg(file, picture.pixels, picture.metadata, quality)


def written_format(path: str) -> str:
  """Pillow's name of the format of a file of this name; UserError for one that is not written."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix not in _FORMATS:
    raise UserError(f'{path} has no suffix of a format that is written; choose one of '
                    f'{", ".join(_FORMATS)}')
  return _FORMATS[suffix]


def to_rgb(pixels: np.ndarray) -> np.ndarray:
  """What a network sees of pixels.

  Args:
    pixels: uint8 or uint16 [h, w, C], as in `Picture`.

  Returns:
    float32 [h, w, 3] in [-1, 1]; greys are repeated, alpha is ignored.
  """
  colours = pixels[..., :_colours(pixels)]
  scaled = colours.astype(np.float32) * np.float32(2 / np.iinfo(pixels.dtype).max) - 1
  return np.repeat(scaled, 3, -1) if scaled.shape[2] == 1 else scaled


def from_rgb(rgb: np.ndarray, like: np.ndarray) -> np.ndarray:
  """What a network gives, in the type of a picture's pixels; the reverse of `to_rgb`.

  Args:
    rgb: float32 [h, w, 3]; values beyond [-1, 1] are clipped.
    like: pixels of the picture, uint8 or uint16 [..., C].

  Returns:
    [h, w, 1 or 3] in the type of `like`, rounded; without alpha. Grey is Rec. 601 luma.
  """
  most = np.iinfo(like.dtype).max
  if _colours(like) == 1:
    rgb = rgb @ np.array(_LUMA, np.float32)[:, None]
  return np.rint(np.clip((rgb + 1) * np.float32(most / 2), 0, most)).astype(like.dtype)


def paste(pixels: np.ndarray, top: int, left: int, colours: np.ndarray, hole: np.ndarray,
          opaque: bool = False) -> None:
  """Writes colours into the hole, in place, and nothing elsewhere.

  Args:
    pixels: uint8 or uint16 [H, W, C], as in `Picture`.
    top: the first row of the colours in the picture.
    left: the first column.
    colours: [h, w, 1 or 3] as of `from_rgb`, all inside the picture.
    hole: bool [h, w].
    opaque: whether alpha becomes its maximum in the hole, as it should where alpha told the
      hole; else it stays.

  Raises:
    ValueError: shapes or types do not match.
  """
  height, width = hole.shape
  channels = _colours(pixels)
  part = pixels[top:top + height, left:left + width]
  if (min(top, left) < 0 or part.shape[:2] != hole.shape or colours.dtype != pixels.dtype or
      colours.shape != (height, width, channels)):
    raise ValueError(f'colours {colours.dtype} {colours.shape} and hole {hole.shape} at {top}, '
                     f'{left} do not fit pixels {pixels.dtype} {pixels.shape}')
  part[..., :channels][hole] = colours[hole]
  if opaque and pixels.shape[2] > channels:
    part[..., channels][hole] = np.iinfo(pixels.dtype).max


def alpha_hole(picture: Picture) -> np.ndarray:
  """The hole that transparency tells.

  Args:
    picture: any.

  Returns:
    bool [H, W], True where alpha is below its maximum.

  Raises:
    UserError: the picture has no alpha.
  """
  if not picture.has_alpha:
    raise UserError('the picture has no transparency that could tell the hole; give a mask')
  return picture.pixels[..., -1] < np.iinfo(picture.pixels.dtype).max


def _colours(pixels: np.ndarray) -> int:
  """Number of channels besides alpha."""
  return 1 if pixels.shape[-1] < 3 else 3
