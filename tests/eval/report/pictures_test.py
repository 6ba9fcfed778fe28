import base64
import io
import os

import numpy as np
from PIL import Image
import pytest

from eval.report import inputs, page, pictures
from eval.results import picture_paths
from mat_jax.errors import UserError
from mat_jax.runtime import image_grid
from mat_jax.runtime.image_grid import write_png
from tests.support import report_workdir


@pytest.fixture
def content(tmp_path):
  return inputs.gather(inputs.load(report_workdir.make(tmp_path / 'ours')), None)


@pytest.fixture
def compared(tmp_path, content):
  theirs = report_workdir.make(tmp_path / 'theirs', seed=1)
  return inputs.gather(content.ours, inputs.load(theirs))


def _chosen(content) -> np.ndarray:
  return np.flatnonzero(pictures.kept(content) & (content.pairs.masks == 'large'))


def _values(content, rows, system: str) -> list[float]:
  """LPIPS of the rows' pairs."""
  table, metrics = content.pairs, content.pairs.metrics[system]['lpips_alex']
  place = {(masks, name, f'mask {mask}'): i for i, (masks, name, mask) in enumerate(table.keys())}
  return [metrics[place['large', row.image, row.heading_parts[0]]] for row in rows]


def test_best_and_worst_by_lpips(content):
  best, worst = pictures.cases(content, _chosen(content))
  large = np.sort(content.pairs.metrics['MAT']['lpips_alex'][content.pairs.masks == 'large'])
  np.testing.assert_array_equal(_values(content, best.rows, 'MAT'), large[:4])
  np.testing.assert_array_equal(_values(content, worst.rows, 'MAT'), large[::-1][:4])
  assert best.rows[0].heading_parts[-1] == f'LPIPS alex {large[0]:.4f}'


def test_comparisons_show_classical_methods_whose_pictures_were_kept(tmp_path):
  workdir = report_workdir.make(tmp_path / 'ours')
  found = inputs.load(workdir)
  metrics = found.pairs.metrics
  metrics |= {name: metrics['mean colour'] for name in ('telea', 'biharmonic', '../results')}
  filled = np.full((report_workdir.SIDE, report_workdir.SIDE, 3), 7, np.uint8)
  path = picture_paths.result_path(found.pictures, 'large', 0, 0, 'telea')
  os.makedirs(os.path.dirname(path))
  write_png(path, filled)
  content = inputs.gather(found, None)
  first, second, *_ = pictures.comparisons(content, _chosen(content))
  assert [one.title for one in first.pictures] == ['original', 'masked', 'telea', 'MAT']
  np.testing.assert_array_equal(first.pictures[2].pixels, filled)
  assert len(first.pictures[2].scores) == 3
  assert [one.title for one in second.pictures] == ['original', 'masked', 'MAT']
  assert [one.title for one in pictures.cases(content, _chosen(content))[0].rows[0].pictures] == [
      'original', 'masked', 'MAT']


def test_gains_and_losses_against_the_baseline(compared):
  _, _, gains, losses = pictures.cases(compared, _chosen(compared))
  for section, order in ((gains, 1), (losses, -1)):
    difference = np.subtract(_values(compared, section.rows, 'proposed'),
                             _values(compared, section.rows, 'baseline'))
    assert (order * difference < 0).all()  # less is better
    np.testing.assert_array_equal(difference, order * np.sort(order * difference))
    assert len(difference) == 4 and 'against the baseline' in section.rows[0].heading_parts[-1]


def test_no_pair_is_both_a_best_and_a_worst_case(content):
  best, worst = pictures.cases(content, _chosen(content)[:3])
  assert (len(best.rows), len(worst.rows)) == (2, 1)
  assert [len(part.rows) for part in pictures.cases(content, np.array([], int))] == [0, 0]


def test_without_lpips_the_hole_decides(content):
  metrics = content.pairs.metrics['MAT']
  metrics['lpips_alex'][:] = np.nan
  assert pictures.ranking(content) == 'psnr_hole'
  best, _ = pictures.cases(content, _chosen(content))
  large = metrics['psnr_hole'][content.pairs.masks == 'large']
  assert best.rows[0].heading_parts[-1] == f'PSNR hole {large.max():.2f} dB'


def test_pictures_of_a_pair(content):
  row = pictures.comparisons(content, _chosen(content))[0]
  original, masked, result = row.pictures
  half = report_workdir.SIDE // 2
  assert (masked.pixels[:, :half] == 128).all()
  np.testing.assert_array_equal(masked.pixels[:, half:], original.pixels[:, half:])
  np.testing.assert_array_equal(result.pixels, 255 - original.pixels)
  assert (row.image, row.image_index) == (report_workdir.HOSTILE, 0)
  assert original.scores == [] and len(result.scores) == 3


def test_pairs_without_all_pictures_are_not_shown(content):
  os.remove(picture_paths.mask_path(content.ours.pictures, 'large', 2, 1))
  kept = pictures.kept(content)
  table = content.pairs
  missing, = np.flatnonzero(~kept)
  assert (table.masks[missing], table.image_index[missing], table.mask[missing]) == ('large', 2, 1)


def test_pictures_that_do_not_fit_are_refused(content):
  path = picture_paths.result_path(content.ours.pictures, 'large', 0, 0)
  write_png(path, np.zeros((8, 12, 3), np.uint8))
  with pytest.raises(UserError, match=r'00000_0\.png is 12 x 8 pixels and the original 16 x 16'):
    pictures.comparisons(content, _chosen(content))
  with open(path, 'wb') as file:
    file.write(b'no picture')
  with pytest.raises(UserError, match='cannot be read'):
    pictures.comparisons(content, _chosen(content))


def test_the_figure_keeps_the_pixels(content):
  rows = pictures.comparisons(content, _chosen(content))
  with Image.open(io.BytesIO(page.figure_png(pictures.draw(rows)))) as image:
    drawn = np.asarray(image.convert('RGB'))
  original = image_grid.enlarge(rows[0].pictures[0].pixels, 384 // report_workdir.SIDE)
  top = np.flatnonzero((drawn[:, 16:400] == original[0]).all((1, 2)))[0]
  np.testing.assert_array_equal(drawn[top:top + 384, 16:400], original)


def test_pictures_in_the_page():
  picture = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
  np.testing.assert_array_equal(_decoded(page.picture_uri(picture, 256)), picture)
  large = picture.repeat(8, 0).repeat(8, 1)
  assert page.picture_uri(large, 256).startswith('data:image/jpeg;base64,')
  assert _decoded(page.picture_uri(large, 256)).shape == (256, 256, 3)


def _decoded(uri: str) -> np.ndarray:
  with Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2]))) as image:
    return np.asarray(image)
