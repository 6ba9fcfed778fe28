"""Metadata of picture files: kept, and made that of the upright picture."""

import dataclasses
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, TiffTags
import pytest
import tifffile

from mat_jax.pictures import encoding, pictures
from mat_jax.pictures.pictures import Metadata, Picture
from tests.support.picture_files import (
  XMP,
  check_exif,
  exif,
  noise,
  open_exif,
  profile,
  smooth,
  write,
)


@pytest.mark.parametrize(('suffix', 'kind'), [
    ('.png', np.uint8), ('.png', np.uint16), ('.tif', np.uint8), ('.tif', np.uint16),
    ('.webp', np.uint8), ('.jpg', np.uint8)])
def test_metadata_is_kept(tmp_path, suffix, kind):
  path = str(tmp_path / f'a{suffix}')
  # Pillow has a place for all of it in PNG files.
  info = PngImagePlugin.PngInfo()
  info.add_itxt('XML:com.adobe.xmp', (XMP % 1).decode())
  Image.fromarray(smooth()).save(tmp_path / 'in.png', icc_profile=profile(), exif=exif(),
                                 dpi=(300, 200), pnginfo=info)
  source = pictures.read_picture(tmp_path / 'in.png')
  assert source.metadata == Metadata(profile(), source.metadata.exif, (300, 200), XMP % 1)
  check_exif(source.metadata.exif)
  pictures.write_picture(path, source.with_pixels(source.pixels.astype(kind)))
  found = pictures.read_picture(path).metadata
  assert dataclasses.replace(found, exif=source.metadata.exif) == source.metadata
  check_exif(found.exif)
  with Image.open(path) as image:
    assert image.info['icc_profile'] == profile()
    if suffix != '.webp':
      assert image.info['dpi'] == pytest.approx((300, 200), abs=1e-3)
    photo = image.getexif().get_ifd(ExifTags.IFD.Exif)
    assert photo[ExifTags.Base.DateTimeOriginal] == '2020:01:02 03:04:05'


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tif'])
def test_orientation_is_applied_and_taken_out(tmp_path, suffix, orientation):
  path = tmp_path / f'a{suffix}'
  backwards = {6: 8, 8: 6}.get(orientation, orientation)
  upright = Image.fromarray(smooth())
  method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(backwards)
  stored = upright if method is None else upright.transpose(Image.Transpose(method))
  if suffix == '.tif':
    tags = open_exif(exif(orientation))
    tags[ExifTags.Base.Artist] = 'Jörg'.encode('latin-1')
    stored.save(path, exif=tags, dpi=(300, 200), icc_profile=profile())
  else:
    extra = {'lossless': True} if suffix == '.webp' else {
        'dpi': (300, 200), 'quality': 95, 'subsampling': 0}
    stored.save(path, exif=exif(orientation), **extra)
  picture = pictures.read_picture(path)
  np.testing.assert_allclose(picture.pixels.astype(int), smooth(), atol=6)
  assert pictures.picture_size(path) == (30, 40)
  check_exif(picture.metadata.exif, (40, 30) if orientation > 4 else (30, 40))
  if suffix != '.webp':
    assert picture.metadata.dpi == ((200, 300) if orientation > 4 else (300, 200))


def test_a_ratio_without_a_unit_is_no_resolution(tmp_path):
  tags = Image.Exif()
  tags[ExifTags.Base.XResolution] = tags[ExifTags.Base.YResolution] = 1.0
  for unit, dpi in ((1, None), (2, (1, 1)), (3, (2.54, 2.54))):
    tags[ExifTags.Base.ResolutionUnit] = unit
    path = str(tmp_path / f'{unit}.jpg')
    Image.fromarray(smooth()).save(path, exif=tags)
    assert pictures.read_picture(path).metadata.dpi == dpi


def test_orientation_in_xmp_alone(tmp_path):
  info = PngImagePlugin.PngInfo()
  info.add_itxt('XML:com.adobe.xmp', (XMP % 3).decode())
  Image.fromarray(smooth()[::-1, ::-1]).save(tmp_path / 'a.png', pnginfo=info)
  picture = pictures.read_picture(tmp_path / 'a.png')
  np.testing.assert_array_equal(picture.pixels, smooth())
  assert picture.metadata.xmp == XMP % 1


def test_exif_behind_the_pixels_of_a_png(tmp_path):
  path = tmp_path / 'a.png'
  Image.fromarray(smooth()).save(path, exif=exif(6))
  data = path.read_bytes()
  start = data.index(b'eXIf') - 4
  length, = struct.unpack('>I', data[start:start + 4])
  chunk = data[start:start + length + 12]
  end = len(data) - 12  # of the last chunk
  path.write_bytes(data[:start] + data[start + len(chunk):end] + chunk + data[end:])
  assert pictures.picture_size(path) == (40, 30)
  np.testing.assert_array_equal(pictures.read_picture(path).pixels, np.rot90(smooth(), -1))


def test_thumbnails_are_left_out(tmp_path):
  Image.fromarray(smooth()).save(tmp_path / 'a.jpg', exif=exif() + b'thumbnail')
  assert b'thumbnail' in (tmp_path / 'a.jpg').read_bytes()
  picture = pictures.read_picture(tmp_path / 'a.jpg')
  assert b'thumbnail' not in picture.metadata.exif
  check_exif(picture.metadata.exif)


@pytest.mark.parametrize('big', [False, True])
def test_types_of_tags(tmp_path, monkeypatch, big):
  Image.fromarray(smooth()).save(tmp_path / 'a.jpg', exif=exif())
  picture = pictures.read_picture(tmp_path / 'a.jpg')
  if big:
    monkeypatch.setattr(encoding, '_BIGTIFF_BYTES', 0)
  pictures.write_picture(tmp_path / 'a.tif', picture)
  pictures.write_picture(tmp_path / 'a.webp', picture)
  with Image.open(tmp_path / 'a.webp') as image:
    # EXIF is a small TIFF file.
    (tmp_path / 'webp.tif').write_bytes(image.info['exif'].removeprefix(b'Exif\0\0'))
  for name in ('a.tif', 'webp.tif'):
    with open(tmp_path / name, 'rb') as file:
      head = file.read(16 if big and name == 'a.tif' else 8)
      directory = TiffImagePlugin.ImageFileDirectory_v2(head)
      file.seek(directory.next)
      directory.load(file)
      photo = TiffImagePlugin.ImageFileDirectory_v2(head)
      file.seek(directory[ExifTags.IFD.Exif])
      photo.load(file)
    assert photo.tagtype[ExifTags.Base.ExposureBiasValue] == TiffTags.SIGNED_RATIONAL
    assert photo.tagtype[ExifTags.Base.UserComment] == TiffTags.UNDEFINED
    assert photo[ExifTags.Base.UserComment] == b'ASCII\0\0\0text'


def test_broken_exif_is_left_out(tmp_path):
  Image.fromarray(smooth()).save(tmp_path / 'a.jpg', exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\2')
  picture = pictures.read_picture(tmp_path / 'a.jpg')
  assert picture.metadata.exif is None and picture.size == (30, 40)


def test_colours_of_png_without_a_profile(tmp_path):
  path = tmp_path / 'a.png'
  write(path, noise())
  gamma = b'gAMA' + struct.pack('>I', 100_000)
  data = path.read_bytes()
  path.write_bytes(data[:33] + b'\0\0\0\4' + gamma + struct.pack('>I', zlib.crc32(gamma)) +
                   data[33:])
  pictures.write_picture(tmp_path / 'b.png', pictures.read_picture(path))
  with Image.open(tmp_path / 'b.png') as image:
    assert image.info['gamma'] == 1
  pictures.write_picture(tmp_path / 'b.tif', pictures.read_picture(path))


def test_large_profiles(tmp_path):
  icc = bytes(16) + b'RGB ' + bytes(3_000_000)
  for suffix in ('.png', '.tif', '.webp', '.jpg'):
    path = str(tmp_path / f'a{suffix}')
    pictures.write_picture(path, Picture(noise(), Metadata(icc=icc)))
    assert pictures.read_picture(path).metadata.icc == icc


def test_what_jpeg_has_no_room_for_is_left_out(tmp_path, caplog):
  path = str(tmp_path / 'a.jpg')
  pictures.write_picture(path, Picture(smooth(), Metadata(xmp=XMP + bytes(70_000), dpi=(72, 72))))
  assert pictures.read_picture(path).metadata == Metadata(dpi=(72, 72))
  assert 'XMP above 64 KiB' in caplog.text


def test_profiles_of_greys_are_left_out_of_webp(tmp_path):
  icc = bytes(16) + b'GRAY' + bytes(100)
  picture = Picture(noise(channels=1), Metadata(icc=icc))
  for suffix, kept in (('.png', icc), ('.tif', icc), ('.webp', None)):
    pictures.write_picture(tmp_path / f'a{suffix}', picture)
    assert pictures.read_picture(tmp_path / f'a{suffix}').metadata.icc == kept


def test_exif_in_a_big_tiff(tmp_path, monkeypatch):
  monkeypatch.setattr(encoding, '_BIGTIFF_BYTES', 0)
  picture = Picture(smooth(), Metadata(exif=exif(), dpi=(300, 300)))
  pictures.write_picture(tmp_path / 'a.tif', picture)
  with tifffile.TiffFile(tmp_path / 'a.tif') as tiff:
    assert tiff.is_bigtiff
  found = pictures.read_picture(tmp_path / 'a.tif')
  check_exif(found.metadata.exif)
  assert found.metadata.dpi == (300, 300)
  np.testing.assert_array_equal(found.pixels, smooth())


def test_texts_of_png(tmp_path):
  path = write(tmp_path / 'a.png', noise(np.uint16, 4), text={'mat-jax': '{"seed": "ü"}'})
  with Image.open(path) as image:
    assert image.text == {'mat-jax': '{"seed": "ü"}'}
    image.load()
  assert pictures.read_picture(path).metadata == Metadata()  # libvips's own resolution is not there
