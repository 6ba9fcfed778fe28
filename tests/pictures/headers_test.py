"""What picture files are, and which are refused."""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
import pytest
import tifffile

from mat_jax.errors import UserError
from mat_jax.pictures import decoding, pictures
from tests.support.picture_files import noise, smooth, write


def refused(path, message):
  with pytest.raises(UserError, match=message) as caught:
    pictures.read_picture(str(path))
  assert pathlib.Path(path).name in str(caught.value)


def test_smaller_copies_are_no_pages(tmp_path):
  with tifffile.TiffWriter(tmp_path / 'a.tif') as writer:
    writer.write(noise(), photometric='rgb')
    writer.write(noise()[::2, ::2], photometric='rgb', subfiletype=1)
  np.testing.assert_array_equal(pictures.read_picture(tmp_path / 'a.tif').pixels, noise())


def test_the_content_decides_and_is_named(tmp_path, caplog):
  write(tmp_path / 'a.png', noise())
  (tmp_path / 'a.png').rename(tmp_path / 'a.jpg')
  assert pictures.read_picture(tmp_path / 'a.jpg').format == 'PNG'
  assert 'a.jpg is a PNG file' in caplog.text


def test_colour_spaces_and_numbers_that_are_refused(tmp_path):
  cmyk = Image.fromarray(smooth()).convert('CMYK')
  for name in ('cmyk.jpg', 'cmyk.tif'):
    cmyk.save(tmp_path / name)
    refused(tmp_path / name, 'CMYK; convert it to RGB')
  tifffile.imwrite(tmp_path / 'lab.tif', smooth(), photometric='cielab')
  refused(tmp_path / 'lab.tif', 'Lab')
  tifffile.imwrite(tmp_path / 'float.tif', smooth().astype(np.float32), photometric='rgb')
  refused(tmp_path / 'float.tif', 'floating-point')
  tifffile.imwrite(tmp_path / '32.tif', smooth().astype(np.uint32), photometric='rgb')
  refused(tmp_path / '32.tif', '32 bits a channel')
  tifffile.imwrite(tmp_path / '5.tif', noise(channels=5), photometric='rgb', planarconfig='contig')
  refused(tmp_path / '5.tif', '5 channels')
  tifffile.imwrite(tmp_path / 'raw.nef', smooth(), photometric='rgb', subfiletype=1)
  refused(tmp_path / 'raw.nef', 'raw file of a camera')


@pytest.mark.parametrize('name', ['a.png', 'a.gif', 'a.webp', 'a.tif'])
def test_several_frames_are_refused(tmp_path, name):
  frames = [Image.fromarray(smooth() + shift) for shift in (0, 60, 120)]
  frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
  refused(tmp_path / name, 'it has 3 (frames|pages); save the one that is meant')
  with pytest.raises(UserError, match='it has 3'):
    pictures.picture_size(tmp_path / name)


def test_pages_in_a_ring_are_counted_once(tmp_path):
  with tifffile.TiffWriter(tmp_path / 'a.tif') as writer:
    writer.write(noise(), photometric='rgb')
    writer.write(noise(), photometric='rgb')
  data = bytearray((tmp_path / 'a.tif').read_bytes())
  with tifffile.TiffFile(tmp_path / 'a.tif') as tiff:
    first, second = (page.offset for page in tiff.pages)
  count, = struct.unpack_from('<H', data, second)
  struct.pack_into('<I', data, second + 2 + 12 * count, first)
  (tmp_path / 'a.tif').write_bytes(data)
  refused(tmp_path / 'a.tif', 'it has 2 pages')


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.webp', '.jpg', '.bmp'])
@pytest.mark.parametrize('part', [0.2, 0.6, 0.9])
def test_truncated_files(tmp_path, suffix, part):
  path = tmp_path / f'a{suffix}'
  Image.fromarray(noise(height=100, width=100)).save(path)
  data = path.read_bytes()
  path.write_bytes(data[:int(len(data) * part)])
  refused(path, 'cannot be read')


def test_files_that_are_no_pictures(tmp_path):
  (tmp_path / 'text.jpg').write_text('no picture')
  (tmp_path / 'empty.png').touch()
  (tmp_path / 'signature.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  Image.fromarray(smooth()).save(tmp_path / 'script.jpg', 'EPS')
  for name in ('text.jpg', 'empty.png', 'script.jpg'):
    refused(tmp_path / name, 'not a picture of a known format')
  refused(tmp_path / 'signature.png', 'cannot be read')
  refused(tmp_path / 'missing.png', 'No such file')
  refused(tmp_path, 'directory')


def test_the_limit_of_pixels_is_named(tmp_path):
  path = write(tmp_path / 'a.png', noise(height=11, width=10))
  with pytest.raises(UserError, match='a.png.*10 x 11 pixels, above the limit of 109.*max_pixels'):
    pictures.read_picture(path, max_pixels=109)
  assert pictures.read_picture(path, max_pixels=110).size == (10, 11)


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.bmp'])
def test_pillow_s_own_limit_is_neither_in_the_way_nor_changed(tmp_path, monkeypatch, name):
  Image.fromarray(noise(height=50, width=50)).save(tmp_path / name)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  monkeypatch.setattr(decoding, '_STRIP_PIXELS', 100)
  found = pictures.read_picture(tmp_path / name).pixels
  if name != 'a.jpg':
    np.testing.assert_array_equal(found, noise(height=50, width=50))
  assert Image.MAX_IMAGE_PIXELS == 100
  with pytest.raises(Image.DecompressionBombError):
    Image.open(tmp_path / name)


def test_many_pixels_are_refused_by_the_header(tmp_path):
  path = tmp_path / 'bomb.png'
  data = bytearray(pathlib.Path(write(path, noise())).read_bytes())
  struct.pack_into('>II', data, 16, 30_000, 20_000)
  path.write_bytes(data)
  refused(tmp_path / 'bomb.png', '30000 x 20000 pixels, above the limit of 500,000,000')


def test_a_chunk_of_packed_zeros_is_refused(tmp_path):
  path = tmp_path / 'a.png'
  data = pathlib.Path(write(path, noise())).read_bytes()
  text = b'zTXtRaw profile type exif\0\0' + zlib.compress(bytes(2**22))
  path.write_bytes(data[:33] + struct.pack('>I', len(text) - 4) + text +
                   struct.pack('>I', zlib.crc32(text)) + data[33:])
  refused(path, 'too large')
