"""What preparation does to an image."""

import dataclasses
import io

import numpy as np
from PIL import Image
import pytest

from input_pipeline.image_dataset import open_dataset
from input_pipeline.preparing import backgrounds, preparation
from input_pipeline.preparing.preparation import Settings
from mat_jax.runtime import images
from tests.support.figures import draw_figure

SETTINGS = Settings(64)
KINDS = ('top', 'shoulders', 'head', 'aside')


@pytest.fixture(scope='module')
def portraits(tmp_path_factory):
  folder = tmp_path_factory.mktemp('figures')
  draw_figure().save(folder / 'figure.png')
  draw_figure(hidden=(0, 0, 0)).convert('RGB').save(folder / 'painting.png')
  Image.new('RGBA', (200, 240)).save(folder / 'void.png')
  return open_dataset(str(folder))


def prepare(portraits, name, **options):
  position = portraits.stems().index(name)
  return preparation.prepare_image(portraits, position, dataclasses.replace(SETTINGS, **options))


def pixels(prepared):
  return [np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in prepared.data]


def test_by_default_the_whole_picture_is_laid_on_white(portraits):
  prepared = prepare(portraits, 'figure')
  assert prepared.records == ('figure.png',) == (prepared.name,)
  (image,) = pixels(prepared)
  assert image.shape == (77, 64, 3) and image[:5, :5].min() > 240
  assert prepared.fingerprint is None and not prepared.problem and not prepared.left_out


def test_muted_backgrounds(portraits):
  (image,) = pixels(prepare(portraits, 'figure', transparency='muted'))
  expected = backgrounds.lay_on_muted(draw_figure(), 'figure').resize((64, 77), images.RESAMPLING)
  assert image.shape == (77, 64, 3) and np.abs(image - np.asarray(expected)).mean() < 3
  assert image[:5, :5].max() < 200
  white, muted = (prepare(portraits, 'painting', transparency=kind) for kind in ('white', 'muted'))
  assert white.data == muted.data


def test_backgrounds_do_not_tell_equal_pictures_apart(portraits):
  digests = {prepare(portraits, 'figure', transparency=kind, crops=crops).digest
             for kind in ('white', 'muted') for crops in ((), KINDS)}
  assert len(digests) == 1


def test_a_picture_with_transparency_is_shrunk_before_it_is_composed(tmp_path):
  # Fine stripes of full and no alpha whose hidden colour must not show.
  stripes = np.zeros((1200, 1200, 4), np.uint8)
  stripes[..., 1] = 255
  stripes[::2] = (90, 90, 90, 255)
  Image.fromarray(stripes).save(tmp_path / 'a.png')
  (image,) = pixels(preparation.prepare_image(
      open_dataset(str(tmp_path)), 0, Settings(16, transparency='muted')))
  assert np.abs(image[..., 1] - image[..., 0]).max() < 30


def test_crops_are_squares_of_the_resolution_with_the_head(portraits):
  prepared = prepare(portraits, 'figure', crops=KINDS, transparency='muted')
  assert prepared.records == tuple(f'figure@{kind}.png' for kind in KINDS)
  views = pixels(prepared)
  assert {view.shape for view in views} == {(64, 64, 3)}
  figure = np.asarray(backgrounds.lay_on_muted(draw_figure(), 'figure')).astype(int)
  face = figure[50:70, 80:100].mean((0, 1))
  for view, (y, x) in zip(views[1:], ((26, 32), (29, 32), (27, 23)), strict=True):
    assert np.abs(view[y - 4:y + 4, x - 4:x + 4].mean((0, 1)) - face).max() < 40


def test_a_crop_is_enlarged_by_a_quarter_at_most_and_equal_ones_are_kept_once(portraits):
  assert len(prepare(portraits, 'figure', crops=KINDS, resolution=200).records) == 3
  prepared = prepare(portraits, 'figure', crops=KINDS, resolution=300)
  assert prepared.records[0] == 'figure@top.png' and len(set(prepared.data)) == len(prepared.data)


def test_crops_of_a_painting(portraits):
  prepared = prepare(portraits, 'painting', crops=('head', 'top'))
  assert prepared.records == ('painting@head.png', 'painting@top.png')


def test_a_picture_without_a_figure_has_no_crops(portraits):
  assert 'hardly anything' in prepare(portraits, 'void', crops=KINDS).problem
  assert not prepare(portraits, 'void').problem


def test_lists_leave_out_what_is_not_held_out(portraits):
  prepared = prepare(portraits, 'figure', leave_out=('fig*',))
  assert prepared.left_out and prepared == preparation.Prepared('figure.png')
  assert not prepare(portraits, 'painting', leave_out=('fig*',)).left_out
  assert not prepare(portraits, 'figure', leave_out=('fig*',), held_out=('figure',)).left_out


def test_fingerprints(portraits):
  pytest.importorskip('imagehash')
  fingerprint = prepare(portraits, 'figure', near_duplicates=0).fingerprint
  assert [len(side) for side in fingerprint] == [32, 32] and fingerprint[0] != fingerprint[1]
