"""Picture files from pixels of 8 or 16 bits, with their metadata."""

from collections.abc import Mapping
import struct
from typing import Any, BinaryIO

from absl import logging
import numpy as np
from PIL import ExifTags, Image

from mat_jax.errors import UserError
from mat_jax.pictures import picture_metadata, png_chunks
from mat_jax.pictures.picture_metadata import Metadata

# Chosen on photographs: as small as the thorough settings, in a third of the time.
_WEBP_LOSSLESS = {'lossless': True, 'exact': True, 'quality': 20, 'method': 1}
_MAX_SIDES = {'JPEG': 65_500, 'WEBP': 16_383}
_MAX_JPEG_SEGMENT = 65_533  # bytes
_XMP_OVERHEAD = 29  # bytes of the name before XMP in a JPEG segment
_BIGTIFF_BYTES = 2**32 - 2**25  # as tifffile decides, of pixels before compression
_STRIP_BYTES = 2**18
_TIFF_ASCII, _TIFF_BYTE, _TIFF_SHORT, _TIFF_LONG, _TIFF_LONG8 = 2, 1, 3, 4, 16
_XMP_TAG = 700
_SUB_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


def check_fits(path: str, format_name: str, pixels: np.ndarray) -> None:
  """Raises a UserError that says what to do if a format cannot hold such pixels."""
  height, width, channels = pixels.shape
  use = f'name the output {path.rpartition(".")[0]}.png'
  if format_name in ('JPEG', 'WEBP') and pixels.dtype != np.uint8:
    raise UserError(f'{path} cannot hold 16 bits a channel; {use} or .tif')
  if format_name == 'JPEG' and channels in (2, 4):
    raise UserError(f'{path} cannot hold transparency; {use}, .webp or .tif')
  if max(height, width) > _MAX_SIDES.get(format_name, 2**31 - 1):
    raise UserError(f'{path} cannot hold {width} x {height} pixels, at most '
                    f'{_MAX_SIDES[format_name]:,} a side; {use} or .tif')


def write_png(file: BinaryIO, pixels: np.ndarray, metadata: Metadata,
              text: Mapping[str, str]) -> None:
  """Encodes PNG while it is written.

  Args:
    file: empty, open for writing.
    pixels: uint8 or uint16 [H, W, C].
    metadata: all of it is kept.
    text: see `png_chunks.metadata_chunks`.
  """
  import pyvips

  height, width, channels = pixels.shape
  wide = pixels.dtype == np.uint16
  image = pyvips.Image.new_from_memory(
      np.ascontiguousarray(pixels), width, height, channels, 'ushort' if wide else 'uchar')
  grey, colour = ('grey16', 'rgb16') if wide else ('b-w', 'srgb')
  image = image.copy(interpretation=grey if channels < 3 else colour)
  output = _PngOutput(file, png_chunks.metadata_chunks(metadata, text))
  target = pyvips.TargetCustom()
  target.on_write(output.write)
  try:
    image.pngsave_target(target, filter='all', bitdepth=16 if wide else 8, keep='none')
  except pyvips.Error:
    if output.error:
      raise output.error from None
    raise


class _PngOutput:
  """Puts chunks of metadata in place of libvips's own, which tell a resolution in any case."""

  def __init__(self, file: BinaryIO, chunks: bytes):
    self.error: OSError | None = None
    self._file, self._chunks, self._start = file, chunks, b''
    self._started = False

  def write(self, data) -> int:
    """Takes the next bytes of the file; errors cannot pass through libvips and are kept."""
    try:
      if self._started:
        self._file.write(data)
      else:
        self._write_start(bytes(data))
      return len(data)
    except OSError as error:
      self.error = error
      return -1

  def _write_start(self, data: bytes) -> None:
    self._start += data
    pixels = self._start.find(b'IDAT') - 4  # from the length before the name
    if pixels >= 0:
      self._file.write(self._start[:png_chunks.HEADER_END] + self._chunks + self._start[pixels:])
      self._started = True


def write_jpeg(file: BinaryIO, pixels: np.ndarray, metadata: Metadata, quality: int) -> None:
  """Encodes JPEG, without subsampling of colours; EXIF and XMP above 64 KiB are left out."""
  options: dict[str, Any] = {'icc_profile': metadata.icc, 'dpi': metadata.dpi}
  exif = picture_metadata.with_dpi(metadata) if metadata.exif else None
  for name, data, most in (('exif', exif, _MAX_JPEG_SEGMENT),
                           ('xmp', metadata.xmp, _MAX_JPEG_SEGMENT - _XMP_OVERHEAD)):
    if len(data or b'') > most:
      logging.warning('JPEG cannot hold %s above 64 KiB, which is left out.', name.upper())
    else:
      options[name] = data
  Image.fromarray(_squeeze(pixels)).save(
      file, 'JPEG', quality=quality, subsampling=0,
      **{key: value for key, value in options.items() if value})


def write_webp(file: BinaryIO, pixels: np.ndarray, metadata: Metadata) -> None:
  """Encodes WebP without losses; it holds no greys, which become RGB."""
  icc = metadata.icc
  if pixels.shape[2] < 3:
    pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], -1)
    if icc and icc[16:20] == b'GRAY':  # the header's colour space (ICC.1:2022, 7.2.8)
      logging.warning('WebP holds no greys: their colour profile is left out.')
      icc = None
  options = {'icc_profile': icc, 'exif': picture_metadata.with_dpi(metadata), 'xmp': metadata.xmp}
  Image.fromarray(pixels).save(file, 'WEBP', **_WEBP_LOSSLESS, **{
      key: value for key, value in options.items() if value})


def write_tiff(file: BinaryIO, pixels: np.ndarray, metadata: Metadata) -> None:
  """Encodes TIFF with deflate.

  Args:
    file: empty, open for writing, with a name.
    pixels: uint8 or uint16 [H, W, C].
    metadata: all of it is kept.
  """
  import tifffile

  height, width, channels = pixels.shape
  exif = picture_metadata.load_exif(metadata.exif)
  big = pixels.nbytes > _BIGTIFF_BYTES
  with tifffile.TiffWriter(file, bigtiff=big, byteorder='<') as writer:
    writer.write(
        _squeeze(pixels), photometric='rgb' if channels > 2 else 'minisblack',
        planarconfig='contig' if channels > 1 else None,
        extrasamples=['unassalpha'] if channels in (2, 4) else None,
        compression='zlib', predictor=True, maxworkers=1, iccprofile=metadata.icc,
        rowsperstrip=max(_STRIP_BYTES // (pixels.nbytes // height), 1),
        resolution=metadata.dpi, resolutionunit='inch' if metadata.dpi else None,
        metadata=None, software=False, extratags=_tiff_tags(metadata, exif, big))
  file.flush()
  with open(file.name, 'r+b') as again:
    _append_directories(again, exif, big)


def _tiff_tags(metadata: Metadata, exif: Image.Exif, big: bool) -> list[tuple]:
  """Tags as `tifffile` takes them: number, type, count, value, only on the first page."""
  tags: list[tuple] = []
  for tag in picture_metadata.DESCRIPTIVE:
    value = picture_metadata.raw_text(exif.get(tag))
    if isinstance(value, int):
      tags.append((int(tag), _TIFF_SHORT, 1, value, True))
    elif isinstance(value, (str, bytes)):
      kind = _TIFF_BYTE if tag >= ExifTags.Base.XPTitle else _TIFF_ASCII
      tags.append((int(tag), kind, len(value), value, True))
  if metadata.xmp:
    tags.append((_XMP_TAG, _TIFF_BYTE, len(metadata.xmp), metadata.xmp, True))
  kind = _TIFF_LONG8 if big else _TIFF_LONG
  tags += [(tag - 1, kind, 1, 0, True) for tag in _SUB_DIRECTORIES if exif.get_ifd(tag)]
  return tags


def _append_directories(file: BinaryIO, exif: Image.Exif, big: bool) -> None:
  """Writes the directories of EXIF behind the picture, and where they are into its own.

  tifffile keeps their two tags from being written. So tags of unused numbers, one lower, hold
  their places in the order, and are renumbered here.
  """
  import tifffile

  for tag in _SUB_DIRECTORIES:
    if not (values := picture_metadata.sub_directory(exif, tag)):
      continue
    directory = Image.Exif()
    directory.endian, directory.bigtiff = '<', big
    directory.update(values)
    offset = file.seek(0, 2)
    offset += offset % 2  # directories begin at even places
    file.seek(offset)
    data = directory.tobytes(offset)[len(b'Exif\0\0') + (16 if big else 8):]
    file.write(picture_metadata.with_types(data, 0, '<', big))
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
      place = tiff.pages.first.tags[tag - 1]
    file.seek(place.offset)
    file.write(struct.pack('<H', tag))
    file.seek(place.valueoffset)
    file.write(struct.pack('<Q' if big else '<I', offset))


def _squeeze(pixels: np.ndarray) -> np.ndarray:
  """[H, W] of one channel, else [H, W, C]."""
  return pixels[..., 0] if pixels.shape[2] == 1 else pixels
