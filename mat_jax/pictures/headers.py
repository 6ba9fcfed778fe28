"""What picture files are, from their headers: format, size, metadata, and what cannot be read."""

from collections.abc import Iterator
import contextlib
import dataclasses
import re
from typing import IO, cast

from PIL import Image

from mat_jax.errors import UserError
from mat_jax.pictures import decoding, picture_metadata, png_chunks
from mat_jax.pictures.picture_metadata import Metadata

_TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# TIFF's PhotometricInterpretation (TIFF 6.0, page 37).
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_LAB = (8, 9, 10)
_UNSIGNED = 1  # TIFF's SampleFormat
_ICC, _XMP, _DNG = 34675, 700, 50706  # tags of TIFF
_MODES = {
    'CMYK': 'its colours are CMYK', 'LAB': 'its colours are Lab', 'HSV': 'its colours are HSV',
    'F': 'its pixels are floating-point numbers',
}


@dataclasses.dataclass(frozen=True)
class Header:
  """What a picture file says before its pixels.

  Attributes:
    format: Pillow's name of the format that the content has.
    stored_size: width and height as they are stored.
    orientation: EXIF's, 1 to 8, from the stored to the upright picture.
    metadata: of the upright picture.
  """

  format: str
  stored_size: tuple[int, int]
  orientation: int
  metadata: Metadata

  @property
  def size(self) -> tuple[int, int]:
    """Width and height of the upright picture."""
    width, height = self.stored_size
    return (height, width) if picture_metadata.is_lying(self.orientation) else (width, height)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
  """Turns what goes wrong with a picture file into a sentence that names it."""
  try:
    yield
  except UserError:
    raise
  # The decoders meet broken files with errors of many types.
  except Exception as error:
    raise UserError(f'the picture {path!r} cannot be read ({_reason(error)}); repair it, or save '
                    'it anew as PNG with another program') from error


def read_header(path: str) -> Header:
  """Reads the header of a picture file; its content decides on its format, not its name.

  Args:
    path: a picture file.

  Raises:
    UserError: it is missing or broken, or of a kind that is not read: several frames or pages,
      CMYK, Lab or floating-point pixels, a camera's raw file.
  """
  with naming(path), open(path, 'rb') as file:
    start = file.read(len(png_chunks.SIGNATURE))
    file.seek(0)
    if start == png_chunks.SIGNATURE:
      return _read_png(path, file)
    if start.startswith(_TIFF_STARTS):
      return _read_tiff(path, file)
    return _read_other(path, file)


def _read_png(path: str, file: IO[bytes]) -> Header:
  header = png_chunks.PngHeader(file)
  _check_frames(path, header.frames)
  pixel = header.pixel
  metadata, orientation = picture_metadata.from_pillow(pixel.info, pixel.getexif(), path)
  metadata = dataclasses.replace(metadata, icc=header.icc, png_colour=header.colour)
  return Header('PNG', header.size, orientation, metadata)


def _read_tiff(path: str, file: IO[bytes]) -> Header:
  import tifffile  # takes 0.2 s

  with tifffile.TiffFile(file) as tiff:
    page = tiff.pages.first
    _check_tiff(path, page)
    # Smaller copies of the first page are no pages of their own. tifffile itself would count
    # forever where pages point to each other in a ring.
    count = decoding.open_vips(path, 'TIFF').get('n-pages')
    pages = [cast(tifffile.TiffPage, tiff.pages[i]) for i in range(count)]
    _check_frames(path, sum(not page.is_reduced for page in pages), 'pages')
    exif = Image.Exif()
    exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
    exif.load_from_fp(file, page.offset)
    info = {'icc_profile': page.tags.valueof(_ICC), 'xmp': page.tags.valueof(_XMP)}
    metadata, orientation = picture_metadata.from_pillow(info, exif, path)
    return Header('TIFF', (page.imagewidth, page.imagelength), orientation, metadata)


def _check_tiff(path: str, page) -> None:
  """Raises UserError for pages of kinds that are not read; `page` is a `tifffile.TiffPage`."""
  if page.is_reduced or page.tags.valueof(_DNG):
    raise decoding.refuse(path, 'it is a raw file of a camera',
                                  'develop it and save a 16-bit TIFF file')
  photometric = int(page.photometric)
  if photometric == _CMYK:
    raise decoding.refuse(path, _MODES['CMYK'])
  if photometric in _LAB:
    raise decoding.refuse(path, _MODES['LAB'])
  if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR):
    raise decoding.refuse(path, f'its photometric interpretation is {photometric}')
  if page.sampleformat != _UNSIGNED:
    raise decoding.refuse(path, 'its pixels are floating-point or signed numbers')
  if page.bitspersample not in (1, 2, 4, 8, 16):
    raise decoding.refuse(path, f'it has {page.bitspersample} bits a channel')
  if page.samplesperpixel > 4:
    raise decoding.refuse(path, f'it has {page.samplesperpixel} channels')


def _read_other(path: str, file: IO[bytes]) -> Header:
  with decoding.open_pillow(file) as image:
    # Phones append a preview or a gain map to JPEG files; then Pillow calls them MPO.
    name = 'JPEG' if image.format == 'MPO' else str(image.format)
    if name != 'JPEG':
      _check_frames(path, getattr(image, 'n_frames', 1))
    if image.mode in _MODES:
      raise decoding.refuse(path, _MODES[image.mode])
    metadata, orientation = picture_metadata.from_pillow(image.info, image.getexif(), path)
    return Header(name, image.size, orientation, metadata)


def _check_frames(path: str, frames: int, unit: str = 'frames') -> None:
  if frames > 1:
    raise decoding.refuse(path, f'it has {frames} {unit}',
                                  'save the one that is meant as a file of its own')


def _reason(error: Exception) -> str:
  """What was wrong with a file, without addresses of buffers."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  # Errors of libvips begin with the operation and end with the cause.
  text = lines[-1] if lines and re.search('[A-Za-z]', lines[-1]) else type(error).__name__
  if text.startswith('cannot identify'):
    return 'not a picture of a known format'
  return 'damaged, or packed in an unknown way' if text.startswith('unable to') else text
