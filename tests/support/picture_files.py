"""Pictures and their metadata, for tests of picture files."""

import functools

import numpy as np
from PIL import ExifTags, Image, ImageCms
import pytest

from mat_jax.pictures import pictures
from mat_jax.pictures.pictures import Picture

XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
       b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
       b'tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>')


def noise(kind=np.uint8, channels=3, height=13, width=11):
  """Pixels of all values, [H, W, C]."""
  most = np.iinfo(kind).max
  return np.random.default_rng(0).integers(
      0, most, (height, width, channels), dtype=kind, endpoint=True)


def smooth(height=40, width=30):
  """Pixels that JPEG keeps well, without symmetry, uint8 [H, W, 3]."""
  rows, columns = np.mgrid[:height, :width]
  return np.stack([rows * 6, columns * 8, rows * 0 + 90], -1).astype(np.uint8)


def write(path, pixels, **options):
  """Writes pixels without metadata and returns the path."""
  pictures.write_picture(str(path), Picture(pixels), **options)
  return str(path)


@functools.cache  # it tells the time
def profile():
  """An ICC profile."""
  return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def exif(orientation=1):
  """EXIF with directories inside it, as cameras write it."""
  tags = Image.Exif()
  tags[ExifTags.Base.Make] = 'Camera'
  tags[ExifTags.Base.Artist] = 'Jörg'.encode('latin-1')
  tags[ExifTags.Base.Orientation] = orientation
  tags.get_ifd(ExifTags.IFD.Exif).update({
      ExifTags.Base.DateTimeOriginal: '2020:01:02 03:04:05', ExifTags.Base.FNumber: 2.8,
      ExifTags.Base.UserComment: b'ASCII\0\0\0text', ExifTags.Base.ExposureBiasValue: 0.5,
      ExifTags.Base.ExifImageWidth: 30, ExifTags.Base.ExifImageHeight: 40})
  tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = 'N'
  return tags.tobytes()


def open_exif(data):
  """EXIF as Pillow reads it."""
  tags = Image.Exif()
  tags.load(data)
  return tags


def check_exif(data, sides=(30, 40)):
  """Checks that everything of `exif` but its orientation is there."""
  tags = open_exif(data)
  assert tags[ExifTags.Base.Make] == 'Camera' and tags[ExifTags.Base.Artist] == 'Jörg'
  assert ExifTags.Base.Orientation not in tags
  photo = tags.get_ifd(ExifTags.IFD.Exif)
  assert photo[ExifTags.Base.DateTimeOriginal] == '2020:01:02 03:04:05'
  assert photo[ExifTags.Base.FNumber] == pytest.approx(2.8)
  assert (photo[ExifTags.Base.ExifImageWidth], photo[ExifTags.Base.ExifImageHeight]) == sides
  assert tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == 'N'
