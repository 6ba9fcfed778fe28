import json
import os

import numpy as np
from PIL import Image
import pytest

from mat_jax.app import jobs
from mat_jax.app.jobs import Marks
from mat_jax.errors import UserError
from mat_jax.inference import variants
from mat_jax.inference.image_files import FileOptions
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.options import InpaintOptions
from mat_jax.pictures import pictures
from mat_jax.pictures.picture_metadata import Metadata
from mat_jax.pictures.pictures import Picture
from tests.support import picture_files, small_generator


@pytest.fixture(scope='module')
def inpainter():
  return Inpainter(small_generator.checkpoint())


@pytest.fixture
def scan(tmp_path):
  """A 16-bit picture of 60 x 90 with its metadata."""
  path = str(tmp_path / 'scan.tif')
  pictures.write_picture(path, Picture(
      picture_files.noise(np.uint16, 3, 90, 60),
      Metadata(icc=picture_files.profile(), exif=picture_files.exif(), dpi=(300, 300))))
  return path


@pytest.fixture
def original(scan, tmp_path):
  """The picture, drawn on at half its size."""
  folder = tmp_path / 'session'
  folder.mkdir()
  return jobs.load(scan, str(folder), max_side=45)


def _drawing(rows=slice(10, 15), columns=slice(8, 12)):
  layer = np.zeros((45, 30, 4), np.uint8)
  layer[rows, columns, 3] = 90
  return (layer,)


def test_a_picture_is_described_and_shown(original, scan):
  assert original.path == scan and original.size == (60, 90)
  assert original.about == '60 × 90 pixels, TIFF, RGB, 16 bits'
  with Image.open(original.preview) as preview:
    assert preview.size == original.preview_size == (30, 45)


def test_what_is_no_picture_is_refused(tmp_path):
  path = tmp_path / 'notes.png'
  path.write_text('no picture')
  with pytest.raises(UserError, match='notes.png'):
    jobs.load(str(path), str(tmp_path))


def test_drawing_and_mask_file_are_added_and_grown(original, tmp_path):
  mask = np.zeros((90, 60, 1), np.uint8)
  mask[70:75, 50] = 255
  path = picture_files.write(tmp_path / 'mask.png', mask)
  said = []
  hole = jobs.hole_of(original, Marks(_drawing(), path), FileOptions(), said.append)
  expected = np.zeros((90, 60), bool)
  expected[20:30, 16:24] = expected[70:75, 50] = True
  np.testing.assert_array_equal(hole, expected)
  assert len(said) == 1 and 'mask.png: white is hole (guessed' in said[0]
  hole = jobs.hole_of(original, Marks(_drawing(), grow=3), FileOptions())
  expected = np.zeros((90, 60), bool)
  expected[17:33, 13:27] = True
  np.testing.assert_array_equal(hole, expected)
  hole = jobs.hole_of(original, Marks(file=path, meaning='black'), FileOptions())
  np.testing.assert_array_equal(hole, mask[..., 0] == 0)


def test_a_mask_goes_down_and_up_again(original):
  hole = jobs.hole_of(original, Marks(_drawing()), FileOptions())
  path = jobs.save_mask(original, hole)
  assert os.path.basename(path) == 'scan_mask.png'
  again = jobs.hole_of(original, Marks(file=path), FileOptions())
  np.testing.assert_array_equal(again, hole)
  shown = jobs.show_hole(original, hole)
  assert shown.size == original.preview_size


def test_a_hole_that_is_none_or_of_another_size_is_refused(original, tmp_path):
  with pytest.raises(UserError, match='nothing is marked'):
    jobs.hole_of(original, Marks(_drawing(columns=slice(0, 0))), FileOptions())
  path = picture_files.write(tmp_path / 'mask.png', np.zeros((60, 90, 1), np.uint8))
  with pytest.raises(UserError, match='is 90 x 60, its image .* is 60 x 90'):
    jobs.hole_of(original, Marks(file=path), FileOptions())


def test_results_are_those_of_the_engine_in_the_picture_s_own_type(inpainter, original, scan):
  windows = []
  options = InpaintOptions(seed=7, num_samples=3)
  found = jobs.fill(inpainter, variants.mean_difference, original, Marks(_drawing()), options,
                    FileOptions(), windows.append)
  assert windows == [3, 3, 3]
  assert sorted(result.seed for result in found.results) == [7, 8, 9]
  before = pictures.read_picture(scan)
  hole = jobs.hole_of(original, Marks(_drawing()), FileOptions())
  expected = inpainter.inpaint(before.pixels, ~hole, options=options)
  for result in found.results:
    assert os.path.basename(result.path) == f'scan_seed{result.seed}.tif'
    after = pictures.read_picture(result.path)
    assert after.metadata == before.metadata
    np.testing.assert_array_equal(after.pixels, expected[result.seed - 7])
    with open(result.record, encoding='utf-8') as file:
      record = json.load(file)
    assert record['seed'] == result.seed and record['image'] == 'scan.tif'
  best = variants.medoid(
      [(picture / 257).round()[20:30, 16:24] for picture in expected], variants.mean_difference)
  assert found.results[0].seed == 7 + best
  with Image.open(found.disagreement) as spread:
    assert not np.asarray(spread)[~hole].any() and np.asarray(spread)[hole].any()
  with Image.open(found.before.whole) as first, Image.open(found.results[0].views.whole) as then:
    assert first.size == then.size == (60, 90)


def test_one_can_go_on_from_a_result(inpainter, original, tmp_path):
  def fill(of, marks, seed):
    return jobs.fill(inpainter, variants.mean_difference, of, marks, InpaintOptions(seed=seed),
                     FileOptions()).results[0].path

  first = fill(original, Marks(_drawing()), 1)
  second = fill(jobs.load(first, original.folder, max_side=45), Marks(_drawing(slice(30, 35))), 2)
  assert os.path.basename(second) == 'scan_seed1_seed2.tif'
  before, after = (pictures.read_picture(path).pixels for path in (first, second))
  changed = (before != after).any(-1)
  assert changed[60:70, 16:24].all() and changed.sum() == 80


def test_sentences_name_files_without_folders():
  said = 'the mask /tmp/x_1/ab12/t_3/a b.png is 3 x 4, /home/a.png'
  assert jobs.without_folders(said, '/tmp/x_1') == 'the mask a b.png is 3 x 4, /home/a.png'
