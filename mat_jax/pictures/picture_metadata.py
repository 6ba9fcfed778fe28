"""What picture files say besides their pixels: colour profile, EXIF, resolution, XMP.

Pixels are turned upright when a file is read, so whatever would turn them again is taken out here.
So are embedded thumbnails, which would go on showing what has been painted over.
"""

from collections.abc import Mapping
import dataclasses
import re
import struct
from typing import Any

from absl import logging
import numpy as np
from PIL import ExifTags, Image

_Base, _Ifd = ExifTags.Base, ExifTags.IFD
# Of a TIFF file the first directory is also the one that says how its pixels are stored, and in
# EXIF the same numbers mean the same; so only what describes the picture goes on.
DESCRIPTIVE = (
    _Base.DocumentName, _Base.ImageDescription, _Base.Make, _Base.Model, _Base.PageName,
    _Base.Software, _Base.DateTime, _Base.Artist, _Base.HostComputer, _Base.Copyright,
    _Base.Rating, _Base.RatingPercent, _Base.XPTitle, _Base.XPComment, _Base.XPAuthor,
    _Base.XPKeywords, _Base.XPSubject,
)
# Types that Pillow does not take over when it writes tags anew (Exif 3.0, 4.6.6 and 4.6.7).
_UNDEFINED, _SIGNED_RATIONAL = 7, 10
_TYPES = {int(tag): _UNDEFINED for tag in (
    _Base.ExifVersion, _Base.ComponentsConfiguration, _Base.MakerNote, _Base.UserComment,
    _Base.FlashPixVersion, _Base.SpatialFrequencyResponse, _Base.FileSource, _Base.SceneType,
    _Base.CFAPattern, _Base.OECF, _Base.DeviceSettingDescription, ExifTags.GPS.GPSProcessingMethod,
    ExifTags.GPS.GPSAreaInformation)}
_TYPES |= {int(tag): _SIGNED_RATIONAL for tag in (
    _Base.ShutterSpeedValue, _Base.BrightnessValue, _Base.ExposureBiasValue)}
_PREFIX = b'Exif\0\0'
_NO_UNIT, _INCH, _CENTIMETRE = 1, 2, 3  # values of EXIF's ResolutionUnit
_CM_PER_INCH = 2.54
_MIN_DPI, _MAX_DPI = 0.1, 1e6  # what is beyond is a mistake, and not held by all formats


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What a picture file says besides its pixels.

  Attributes:
    icc: the ICC profile that its colours are meant in.
    exif: EXIF, beginning with b'Exif\\0\\0'; without orientation, resolution and thumbnail.
    dpi: pixels per inch, horizontally and vertically.
    xmp: an XMP packet; its orientation, if it names one, is upright.
    png_colour: the chunks of a PNG file that tell its colours without an ICC profile (gAMA, cHRM,
      sRGB, cICP and the like), as they are; only PNG files can keep them.
  """

  icc: bytes | None = None
  exif: bytes | None = None
  dpi: tuple[float, float] | None = None
  xmp: bytes | None = None
  png_colour: bytes = b''


def from_pillow(info: Mapping[Any, Any], exif: Image.Exif, name: str) -> tuple[Metadata, int]:
  """Collects metadata as Pillow reads it.

  Args:
    info: `Image.info`.
    exif: `Image.getexif()`, which may come from XMP alone.
    name: the file, for warnings.

  Returns:
    The metadata of the upright picture, and the EXIF orientation of the stored one, 1 to 8.
  """
  orientation = exif.get(_Base.Orientation, 1)
  orientation = orientation if orientation in range(1, 9) else 1
  dpi = None if _is_without_unit(info, exif) else _valid_dpi(info.get('dpi'))
  dpi = dpi or _exif_dpi(exif)
  if dpi:
    # PNG counts whole pixels a metre: 300 dpi come back as 299.9994.
    x, y = (round(value, 2) for value in dpi)
    dpi = (y, x) if is_lying(orientation) else (x, y)
  return Metadata(
      icc=info.get('icc_profile') or None,
      exif=_upright_exif(exif, orientation, name),
      dpi=dpi,
      xmp=_upright_xmp(info.get('xmp') or info.get('XML:com.adobe.xmp')),
  ), orientation


def is_lying(orientation: int) -> bool:
  """Whether a picture of an EXIF orientation is stored with rows and columns exchanged."""
  return orientation >= 5


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns stored pixels as an EXIF orientation says.

  Args:
    pixels: [rows, columns, C].
    orientation: 1 to 8.

  Returns:
    [H, W, C]; the same array for 1, else a copy.
  """
  if is_lying(orientation):
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def with_dpi(metadata: Metadata) -> bytes | None:
  """EXIF that tells the resolution, for formats that have no other place for it."""
  if not metadata.dpi:
    return metadata.exif
  exif = _copy(load_exif(metadata.exif))
  exif[_Base.XResolution], exif[_Base.YResolution] = metadata.dpi
  exif[_Base.ResolutionUnit] = _INCH
  return _encode(exif)


def load_exif(data: bytes | None) -> Image.Exif:
  """Opens EXIF bytes; None is empty."""
  exif = Image.Exif()
  exif.load(data or b'')
  return exif


def sub_directory(exif: Image.Exif, pointer: int) -> dict[int, Any]:
  """A directory inside EXIF (`ExifTags.IFD.Exif` or `.GPSInfo`), as it can be written anew."""
  tags = dict(exif.get_ifd(pointer))
  if _Ifd.Interop in tags:
    tags[_Ifd.Interop] = exif.get_ifd(_Ifd.Interop)
  return {tag: raw_text(value) for tag, value in tags.items()}


def with_types(data: bytes, start: int, order: str, big: bool = False) -> bytes:
  """Corrects the types of a written directory; those of a value that are exchanged are as long.

  Args:
    data: what holds the directory.
    start: where it begins.
    order: '<' or '>'.
    big: whether it is one of BigTIFF.
  """
  corrected = bytearray(data)
  count, first, step = ('Q', 8, 20) if big else ('H', 2, 12)
  entries, = struct.unpack_from(order + count, data, start)
  for at in range(start + first, start + first + entries * step, step):
    tag, kind = struct.unpack_from(order + 'HH', data, at)
    struct.pack_into(order + 'H', corrected, at + 2, _TYPES.get(tag, kind))
  return bytes(corrected)


def _encode(exif: Image.Exif) -> bytes:
  data = exif.tobytes()
  written = load_exif(data)
  for pointer in (_Ifd.Exif, _Ifd.GPSInfo):
    if pointer in written:
      data = with_types(data, len(_PREFIX) + written[pointer], exif.endian or '>')
  return data


def raw_text(value: Any) -> Any:
  """Text beyond ASCII as the bytes that it was read from, which Pillow would replace by '?'."""
  if isinstance(value, str):
    value = value.rstrip('\0')
    return value if value.isascii() else value.encode('latin-1', 'replace')
  return value


def _upright_exif(exif: Image.Exif, orientation: int, name: str) -> bytes | None:
  """EXIF without what describes storage; None if nothing is left, or if it is broken."""
  try:
    data = _encode(_copy(exif, orientation))
    return data if len(load_exif(data)) else None
  except Exception as error:  # broken values meet Pillow as errors of many types
    logging.warning('%s: its EXIF cannot be read (%s) and will not be kept.', name, error)
    return None


def _copy(exif: Image.Exif, orientation: int = 1) -> Image.Exif:
  copied = Image.Exif()
  copied.endian = exif.endian
  for tag in DESCRIPTIVE:
    if tag in exif:
      copied[tag] = raw_text(exif[tag])
  for pointer in (_Ifd.Exif, _Ifd.GPSInfo):
    if tags := sub_directory(exif, pointer):
      copied.get_ifd(pointer).update(_turned_size(tags, orientation))
  return copied


def _turned_size(tags: dict[int, Any], orientation: int) -> dict[int, Any]:
  """Exchanges the sides that EXIF names, if the picture is turned from lying to upright."""
  sides = (_Base.ExifImageWidth, _Base.ExifImageHeight)
  if is_lying(orientation) and all(side in tags for side in sides):
    return tags | {sides[0]: tags[sides[1]], sides[1]: tags[sides[0]]}
  return tags


def _upright_xmp(xmp: bytes | str | None) -> bytes | None:
  if not xmp:
    return None
  data = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
  return re.sub(rb'(tiff:Orientation(?:="|=\'|>))\d', rb'\g<1>1', data)


def _is_without_unit(info: Mapping[Any, Any], exif: Image.Exif) -> bool:
  """Whether `info` has a resolution of EXIF that is a ratio alone, which Pillow takes for inches."""
  horizontal = exif.get(_Base.XResolution)  # of which Pillow makes both
  return exif.get(_Base.ResolutionUnit) == _NO_UNIT and info.get('dpi') == (horizontal, horizontal)


def _exif_dpi(exif: Image.Exif) -> tuple[float, float] | None:
  scale = {_INCH: 1, _CENTIMETRE: _CM_PER_INCH}.get(exif.get(_Base.ResolutionUnit, _INCH))
  values = exif.get(_Base.XResolution), exif.get(_Base.YResolution)
  dpi = _valid_dpi(values)
  return (dpi[0] * scale, dpi[1] * scale) if dpi and scale else None


def _valid_dpi(values: Any) -> tuple[float, float] | None:
  """Two positive numbers; files hold zeros, fractions of zero and worse."""
  try:
    x, y = (float(value) for value in values)
  except (TypeError, ValueError, ZeroDivisionError):
    return None
  return (x, y) if all(_MIN_DPI <= value <= _MAX_DPI for value in (x, y)) else None
