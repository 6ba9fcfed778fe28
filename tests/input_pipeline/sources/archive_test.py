"""Images in zip archives."""

from concurrent import futures
import io
import zipfile

import numpy as np
from PIL import Image
import pytest

from input_pipeline import image_dataset
from mat_jax.errors import UserError
from mat_jax.runtime import images


def png(level):
  file = io.BytesIO()
  Image.new('RGB', (20, 24), (level, 0, 0)).save(file, 'PNG')
  return file.getvalue()


def archive(path, members, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', compression) as file:
    for name, data in members.items():
      file.writestr(name, data)
  return str(path)


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_are_read_in_place(tmp_path, compression):
  members = {'faces/b.png': png(2), 'faces/a.JPG': png(1), 'c.png': png(3), 'readme.txt': b'text',
             '__MACOSX/faces/._b.png': b'mac', 'faces/.hidden.png': png(9), 'faces/': b''}
  collection = image_dataset.open_dataset(archive(tmp_path / 'faces.zip', members, compression))
  assert collection.stems() == ['c', 'faces/a', 'faces/b']
  assert [collection.load(i, 16)[0, 0, 0] for i in range(3)] == [3, 1, 2]
  assert collection.name(1) == f'{tmp_path}/faces.zip/faces/a.JPG'
  assert [path.name for path in tmp_path.iterdir()] == ['faces.zip']


def test_many_threads_share_an_archive(tmp_path):
  members = {f'{i:03}.png': png(i) for i in range(200)}
  collection = image_dataset.open_dataset(archive(tmp_path / 'a.zip', members))
  with futures.ThreadPoolExecutor(8) as pool:
    levels = list(pool.map(lambda i: collection.load(i, 8)[0, 0, 0], range(200)))
  assert levels == list(range(200))


@pytest.mark.parametrize('name', ['../evil.png', 'a/../../evil.png', '/etc/evil.png',
                                  '..\\evil.png', 'C:/evil.png', '../notes.txt'])
def test_members_that_lead_out_are_refused(tmp_path, name):
  path = archive(tmp_path / 'a.zip', {'good.png': png(1), name: png(2)})
  with pytest.raises(UserError, match='a.zip.*evil.png|a.zip.*notes.txt.*lies outside'):
    image_dataset.open_dataset(path)


def test_archives_without_images(tmp_path):
  for members in ({}, {'readme.txt': b'text'}):
    with pytest.raises(UserError, match='a.zip.*holds no images'):
      image_dataset.open_dataset(archive(tmp_path / 'a.zip', members))


def test_archives_with_a_password(tmp_path):
  path = archive(tmp_path / 'a.zip', {'a.png': png(1)})
  data = bytearray((tmp_path / 'a.zip').read_bytes())
  for signature, offset in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
    data[data.index(signature) + offset] |= 1
  (tmp_path / 'a.zip').write_bytes(data)
  with pytest.raises(UserError, match='needs a password'):
    image_dataset.open_dataset(path)


def test_damaged_members_are_named(tmp_path):
  path = archive(tmp_path / 'a.zip', {'a.png': png(1), 'b.png': png(2)})
  data = bytearray((tmp_path / 'a.zip').read_bytes())
  data[data.index(b'b.png') + 20] ^= 255
  (tmp_path / 'a.zip').write_bytes(data)
  collection = image_dataset.open_dataset(path)
  assert collection.load(0, 16)[0, 0, 0] == 1
  with pytest.raises(UserError, match='a.zip/b.png.*cannot be read'):
    collection.load(1, 16)


def test_members_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(images, 'MAX_FILE_BYTES', 2**20)
  path = archive(tmp_path / 'a.zip', {'bomb.png': bytes(2**21)}, zipfile.ZIP_DEFLATED)
  assert (tmp_path / 'a.zip').stat().st_size < 10_000
  with pytest.raises(UserError, match='bomb.png.*larger than 1 MiB'):
    image_dataset.open_dataset(path).load(0, 16)


def test_the_same_images_as_in_the_folder(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(4):
    Image.fromarray(rng.integers(256, size=(40, 30, 3), dtype=np.uint8)).save(
        tmp_path / f'{i}.jpg')
  folder = image_dataset.open_dataset(str(tmp_path))
  members = {f'{i}.jpg': (tmp_path / f'{i}.jpg').read_bytes() for i in range(4)}
  zipped = image_dataset.open_dataset(archive(tmp_path.parent / 'same.zip', members))
  for i in range(4):
    np.testing.assert_array_equal(zipped.load(i, 32), folder.load(i, 32))
