"""The parts of PNG files around their pixels.

Pillow reads and writes all kinds of metadata, but no 16-bit colours; libvips the reverse. So the
chunks of metadata are moved between real files and files of one pixel, which Pillow handles.
A PNG file is a signature and then chunks: length, kind, data, checksum
(https://www.w3.org/TR/png-3/#5DataRep).
"""

from collections.abc import Iterator, Mapping
import io
import struct
from typing import IO
import zlib

from PIL import Image, PngImagePlugin

from mat_jax.pictures.picture_metadata import Metadata

SIGNATURE = b'\x89PNG\r\n\x1a\n'
HEADER_END = 33  # signature and the header chunk, which is always the first
_COLOUR = (b'gAMA', b'cHRM', b'sRGB', b'cICP', b'mDCV', b'cLLI')
_PILLOW = (b'eXIf', b'pHYs')
_TEXT = (b'tEXt', b'zTXt', b'iTXt')
# The texts that hold XMP and, in files of ImageMagick before 7.0.7, EXIF.
_KEYWORDS = (b'XML:com.adobe.xmp\0', b'Raw profile type exif\0')
_MAX_BYTES = 2**26  # of one chunk, and of what is packed in it


class PngHeader:
  """What a PNG file says besides its pixels.

  Attributes:
    size: width and height as stored.
    frames: more than 1 for an animation.
    pixel: an image of one pixel with the same EXIF, XMP and resolution.
    icc: the ICC profile.
    colour: see `Metadata.png_colour`.
  """

  def __init__(self, file: IO[bytes]):
    """Reads all chunks but those of pixels, wherever they are.

    Args:
      file: a PNG file.

    Raises:
      ValueError: it is broken, or a chunk is larger than 64 MiB.
    """
    self.size, self.frames, self.colour = (0, 0), 1, b''
    self.icc: bytes | None = None
    kept = []
    for kind, data in _walk(file, (b'IHDR', b'acTL', b'iCCP', *_COLOUR, *_PILLOW, *_TEXT)):
      if kind == b'IHDR':
        self.size = struct.unpack('>II', data[:8])
      elif kind == b'acTL':
        self.frames = struct.unpack('>I', data[:4])[0]
      elif kind == b'iCCP':
        self.icc = _unpack_profile(data)
      elif kind in _COLOUR:
        self.colour += _chunk(kind, data)
      elif kind in _PILLOW or data.startswith(_KEYWORDS):
        kept.append(_chunk(kind, data))
    if not all(self.size):
      raise ValueError('no header')
    self.pixel = _open_pixel(b''.join(kept))


def metadata_chunks(metadata: Metadata, text: Mapping[str, str]) -> bytes:
  """Encodes metadata and texts as the chunks that belong between header and pixels.

  Args:
    metadata: all of it is kept.
    text: keywords, 1 to 79 characters of Latin-1, and any texts.
  """
  info = PngImagePlugin.PngInfo()
  if metadata.xmp:
    info.add_itxt('XML:com.adobe.xmp', metadata.xmp.decode('utf-8', 'replace'))
  for keyword, value in text.items():
    info.add_itxt(keyword, value)
  options = {'icc_profile': metadata.icc, 'exif': metadata.exif, 'dpi': metadata.dpi}
  file = io.BytesIO()
  Image.new('L', (1, 1)).save(
      file, 'PNG', pnginfo=info, **{key: value for key, value in options.items() if value})
  pixels = (b'IHDR', b'IDAT', b'IEND')
  return metadata.png_colour + b''.join(
      _chunk(kind, data) for kind, data in _walk(file) if kind not in pixels)


def _walk(file: IO[bytes], kinds: tuple[bytes, ...] | None = None
          ) -> Iterator[tuple[bytes, bytes]]:
  """Kinds and data of chunks, by default of all; it skips what others hold."""
  file.seek(len(SIGNATURE))
  while len(head := file.read(8)) == 8:
    length, kind = struct.unpack('>I4s', head)
    if kinds is None or kind in kinds:
      if length > _MAX_BYTES:
        raise ValueError(f'a chunk {kind!r} of {length:,} bytes')
      yield kind, file.read(length)
      file.seek(4, io.SEEK_CUR)
    else:
      file.seek(length + 4, io.SEEK_CUR)
    if kind == b'IEND':
      break


def _chunk(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def _unpack_profile(data: bytes) -> bytes | None:
  """The profile of an iCCP chunk: a name, a zero, the method, and then packed bytes."""
  _, _, packed = data.partition(b'\0')
  unpacker = zlib.decompressobj()
  try:
    profile = unpacker.decompress(packed[1:], _MAX_BYTES)
  except zlib.error:
    return None
  return profile if unpacker.eof else None


def _open_pixel(chunks: bytes) -> Image.Image:
  """Opens an image of one grey pixel with chunks of metadata."""
  header = struct.pack('>IIBBBBB', 1, 1, 8, 0, 0, 0, 0)
  data = (SIGNATURE + _chunk(b'IHDR', header) + chunks +
          _chunk(b'IDAT', zlib.compress(b'\0\0')) + _chunk(b'IEND', b''))
  image = Image.open(io.BytesIO(data), formats=('PNG',))
  image.load()
  return image
