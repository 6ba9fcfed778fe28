import os
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from eval.classical import folders, methods
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets
from tests.support.paths import ROOT


@pytest.fixture
def pictures(tmp_path):
  """Two pictures of different size and form, and their masks."""
  for kind in ('images', 'masks'):
    (tmp_path / kind).mkdir()
  for name, height, width in (('a.jpg', 40, 60), ('b.png', 64, 32)):
    pixels = np.random.default_rng(height).integers(256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'images' / name)
    mask = np.full((height, width), 255, np.uint8)
    mask[5:15, 8:20] = 0
    Image.fromarray(mask).save(tmp_path / 'masks' / f'{name[0]}.png')
  return tmp_path


def fill(folder, names='telea+navier_stokes'):
  folders.fill_folder(str(folder / 'images'), str(folder / 'masks'), str(folder / 'out'),
                      methods.load(names, '--methods'))


def read(path):
  return np.asarray(Image.open(path).convert('RGB'))


def test_in_a_bucket_it_is_the_same(pictures, bucket, bucket_copies):
  address, _ = bucket
  for folder in ('images', 'masks'):
    local = str(pictures / folder)
    buckets.upload(local, f'{address}/{folder}', buckets.files_of(local))
  folders.fill_folder(f'{address}/images', f'{address}/masks', f'{address}/out',
                      methods.load('telea', '--methods'))
  fill(pictures, 'telea')
  assert buckets.walk(f'{address}/out') == ['telea/a.png', 'telea/b.png']
  for name in ('a', 'b'):
    assert (buckets.read_file(f'{address}/out/telea/{name}.png')
            == (pictures / 'out' / 'telea' / f'{name}.png').read_bytes())


def test_every_method_fills_every_picture(pictures):
  fill(pictures)
  for name, file in (('a', 'a.jpg'), ('b', 'b.png')):
    original = read(pictures / 'images' / file)
    hole = np.asarray(Image.open(pictures / 'masks' / f'{name}.png')) == 0
    for method, function in methods.load('telea+navier_stokes', 'x').items():
      filled = read(pictures / 'out' / method / f'{name}.png')
      np.testing.assert_array_equal(filled, function(original, hole))
      np.testing.assert_array_equal(filled[~hole], original[~hole])


@pytest.mark.parametrize('spoil,message', [
    (lambda folder: (folder / 'masks' / 'b.png').unlink(), 'there is no mask for .*b.png'),
    (lambda folder: (folder / 'images' / 'b.png').write_bytes(b'broken'), 'cannot be read'),
    (lambda folder: Image.new('L', (32, 65)).save(folder / 'masks' / 'b.png'),
     r'b.png is 32 x 65, its image .*b.png is 32 x 64')])
def test_mistakes_leave_nothing(pictures, spoil, message):
  spoil(pictures)
  with pytest.raises(UserError, match=message):
    fill(pictures)
  assert not (pictures / 'out').exists()


def test_command(pictures):
  done = subprocess.run(
      [sys.executable, '-m', 'eval.classical', f'--images={pictures / "images"}',
       f'--masks={pictures / "masks"}', f'--output={pictures / "out"}', '--methods=telea'],
      cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert sorted(os.listdir(pictures / 'out')) == ['telea']
  assert sorted(os.listdir(pictures / 'out' / 'telea')) == ['a.png', 'b.png']
