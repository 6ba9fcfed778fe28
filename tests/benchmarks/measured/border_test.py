import os
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from benchmarks.measured import border
from mat_jax.errors import UserError
from tests.support.paths import ROOT


class _Flat:
  """Fills holes with one colour, whatever is around them."""

  def inpaint(self, image, mask, options):
    return np.where(mask[..., None], image, np.uint8(200))[None]


@pytest.fixture
def pair():
  """A picture of noise around grey, and a square hole."""
  hole = np.zeros((64, 48), bool)
  hole[20:40, 10:30] = True
  return np.random.default_rng(0).integers(90, 110, (64, 48, 3), np.uint8), hole


def test_a_border_is_told_from_none(pair):
  found, pictures = border.measure(_Flat(), *pair)
  assert list(found) == ['as it is', 'seamless', 'seamless and grain', 'and texture', 'original']
  assert list(pictures) == list(found)
  assert found['as it is'].ratio > 10 and found['as it is'].lpips > 0.01
  assert found['original'].ratio == pytest.approx(1, abs=0.15)
  assert found['original'].lpips == pytest.approx(0, abs=1e-6)
  np.testing.assert_array_equal(pictures['original'], pair[0])


def test_means_have_their_errors():
  first, second = ({'as it is': border.Measured(ratio, lpips), 'seamless': border.Measured(1, 0.5)}
                   for ratio, lpips in ((1, 0.25), (3, 0.75)))
  found = border.summary([first, second])
  assert found['as it is'] == {
      'ratio': [2, 0.7071], 'lpips': [0.5, 0.1768], 'lpips_change': [0, 0]}
  assert found['seamless']['lpips_change'] == [0, 0.1768]


def test_the_crop_has_most_of_the_border():
  hole = np.zeros((64, 48), bool)
  hole[20:28, 10:18] = True
  hole[60, 2] = True
  rows, columns = border.crop_with_most_border(hole, 16)
  assert rows.start < 20 and rows.stop > 28 and columns.start < 10 and columns.stop > 18
  assert rows.stop - rows.start == columns.stop - columns.start == 16
  hole[60, 2] = False
  assert border.crop_with_most_border(hole, 100) == (slice(0, 48), slice(0, 48))


def test_figure_keeps_proportions():
  shown = border.figure([[np.zeros((512, 256, 3), np.uint8)] * 2])
  assert shown.shape[0] == 256 and shown.shape[1] >= 512
  assert (shown[:, :60] == 255).all() and (shown[:, 70:180] == 0).all()
  crop = border.figure([[np.eye(64, dtype=np.uint8)[..., None].repeat(3, 2)]])
  np.testing.assert_array_equal(crop[:, :, 0], np.kron(np.eye(64), np.ones((4, 4))), 'enlarged')


def test_files_are_paired_by_name(pair, tmp_path):
  with pytest.raises(UserError, match='has no PNG files'):
    next(border.read_pairs(str(tmp_path), str(tmp_path)))
  image, hole = pair
  for folder, array in (('images', image), ('masks', np.where(hole, 0, 255).astype(np.uint8))):
    os.makedirs(tmp_path / folder)
    Image.fromarray(array).save(tmp_path / folder / 'a.png')
  (found,) = border.read_pairs(str(tmp_path / 'images'), str(tmp_path / 'masks'))
  assert found[0] == 'a.png'
  np.testing.assert_array_equal(found[1], image)
  np.testing.assert_array_equal(found[2], hole)
  os.remove(tmp_path / 'masks' / 'a.png')
  with pytest.raises(UserError, match='there is no mask .*a.png'):
    next(border.read_pairs(str(tmp_path / 'images'), str(tmp_path / 'masks')))


@pytest.mark.parametrize('more,message', [
    ((), 'nowhere has no PNG files'), (('--shown=a',), '--shown: nowhere has no a.png')])
def test_missing_files_are_one_sentence(more, message):
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.measured.border', '--images=nowhere', '--masks=nowhere',
       *more],
      cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
      check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith(f'error: {message}')
