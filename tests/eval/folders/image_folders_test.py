"""Folders of results matched with real images and masks, and the folders that do not fit."""

import os

import numpy as np
from PIL import Image
import pytest

from eval.folders import image_folders
from mat_jax.errors import UserError


def write(folder, names, level=100, size=(16, 16)):
  """Gray images; the names have their endings, the sizes are (width, height)."""
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (level,) * 3).save(path)
  return str(folder)


def results_of(comparison):
  """[image, number, results' paths relative to the test's folder, mask's likewise]."""
  def short(path):
    return path and '/'.join(path.split(os.sep)[-2:])

  return [(comparison.names[example.image], example.number,
           *(short(path) for path in example.results), short(example.mask))
          for example in comparison.examples]


def test_matches_by_relative_path_without_ending(tmp_path):
  real = write(tmp_path / 'real', ['b.png', 'a/x.png', 'c/x.bmp'])
  fake = write(tmp_path / 'fake', ['a/x.jpg', 'c/x.png', 'b.webp'])
  comparison = image_folders.pair(real, [fake])
  assert comparison.names == ('a/x', 'b', 'c/x')
  assert results_of(comparison) == [
      ('a/x', 0, 'a/x.jpg', None), ('b', 0, 'fake/b.webp', None), ('c/x', 0, 'c/x.png', None)]
  assert [example.real for example in comparison.examples] == list(comparison.real)


def test_several_results_of_an_image_in_order_of_their_numbers(tmp_path):
  real = write(tmp_path / 'real', ['a.png', 'a_1.png'])
  fake = write(tmp_path / 'fake', ['a_10.png', 'a_2.png', 'a_1_0.png', 'a_1_7.png'])
  other = write(tmp_path / 'other', ['a_10.jpg', 'a_2.jpg', 'a_1_0.jpg', 'a_1_7.jpg'])
  assert results_of(image_folders.pair(real, [fake, other])) == [
      ('a', 0, 'fake/a_2.png', 'other/a_2.jpg', None),
      ('a', 1, 'fake/a_10.png', 'other/a_10.jpg', None),
      ('a_1', 0, 'fake/a_1_0.png', 'other/a_1_0.jpg', None),
      ('a_1', 1, 'fake/a_1_7.png', 'other/a_1_7.jpg', None)]


def test_an_exact_name_wins_over_a_number(tmp_path):
  real = write(tmp_path / 'real', ['a.png', 'a_1.png'])
  fake = write(tmp_path / 'fake', ['a.png', 'a_1.png', 'a_2.png'])
  assert results_of(image_folders.pair(real, [fake])) == [
      ('a', 0, 'fake/a.png', None), ('a', 1, 'fake/a_2.png', None),
      ('a_1', 0, 'fake/a_1.png', None)]


@pytest.mark.parametrize(
    ('fakes', 'masks', 'expected'),
    [
        (['a', 'b'], ['a', 'b', 'c'], ['a', 'b']),
        (['a_0', 'a_1', 'b'], ['a_0', 'a_1', 'b'], ['a_0', 'a_1', 'b']),
        (['a_0', 'a_1', 'b'], ['a', 'b'], ['a', 'a', 'b']),
        (['a_0', 'a_1', 'b'], ['a', 'a_1', 'b'], ['a', 'a_1', 'b']),
        (['a', 'b'], ['a_0', 'b_7'], ['a_0', 'b_7']),
        (['a_0', 'a_1', 'b'], ['centre'], ['centre'] * 3),
    ])
def test_masks(tmp_path, fakes, masks, expected):
  real = write(tmp_path / 'real', ['a.png', 'b.png'])
  fake = write(tmp_path / 'fake', [f'{name}.png' for name in fakes])
  folder = write(tmp_path / 'masks', [f'{name}.png' for name in masks])
  found = results_of(image_folders.pair(real, [fake], folder))
  assert [mask for *_, mask in found] == [f'masks/{name}.png' for name in expected]


def test_masks_in_one_folder_of_images_in_several(tmp_path):
  real = write(tmp_path / 'real', ['m/a.png', 'n/b.png'])
  fake = write(tmp_path / 'fake', ['m/a.png', 'n/b_0.png'])
  masks = write(tmp_path / 'masks', ['a.png', 'b_0.png'])
  found = results_of(image_folders.pair(real, [fake], masks))
  assert [mask for *_, mask in found] == ['masks/a.png', 'masks/b_0.png']


@pytest.mark.parametrize('masks', [['a', 'c'], ['a', 'b_0', 'b_1'], ['a', 'b_0_0']])
def test_masks_that_do_not_tell_which_result_they_belong_to(tmp_path, masks):
  real = write(tmp_path / 'real', ['a.png', 'b.png'])
  folder = write(tmp_path / 'masks', [f'{name}.png' for name in masks])
  with pytest.raises(UserError, match='masks. lacks masks for: b; name masks'):
    image_folders.pair(real, [real], folder)


def test_a_lone_numbered_mask_is_not_for_all_results_of_an_image(tmp_path):
  real = write(tmp_path / 'real', ['a.png', 'b.png'])
  fake = write(tmp_path / 'fake', ['a_0.png', 'a_1.png', 'b.png'])
  masks = write(tmp_path / 'masks', ['a_0.png', 'b.png'])
  with pytest.raises(UserError, match='lacks masks for: a_1;'):
    image_folders.pair(real, [fake], masks)


def test_differences_are_listed(tmp_path):
  real = write(tmp_path / 'real', ['both.png', *(f'r{i:02}.png' for i in range(15))])
  fake = write(tmp_path / 'fake', ['both.png', 'f.png', 'r_1.png'])
  with pytest.raises(UserError) as caught:
    image_folders.pair(real, [fake])
  assert f"{real!r} lacks: f, r_1; {fake!r} lacks: r00, r01, r02 (and 12 more); " in str(caught.value)


def test_a_real_image_without_a_result(tmp_path):
  real = write(tmp_path / 'real', ['a.png', 'b.png'])
  fake = write(tmp_path / 'fake', ['a_0.png', 'a_1.png'])
  with pytest.raises(UserError, match='fake. lacks: b; both') as caught:
    image_folders.pair(real, [fake])
  assert f'{real!r} lacks' not in str(caught.value)


def test_folders_of_results_have_to_have_the_same_names(tmp_path):
  real = write(tmp_path / 'real', ['a.png'])
  fake = write(tmp_path / 'fake', ['a_0.png', 'a_1.png'])
  other = write(tmp_path / 'other', ['a_1.png', 'a_2.png'])
  with pytest.raises(UserError, match='fake. lacks: a_2; .*other. lacks: a_0;'):
    image_folders.pair(real, [fake, other])


def test_missing_and_empty_folders(tmp_path):
  real = write(tmp_path / 'real', ['a.png'])
  (tmp_path / 'empty').mkdir()
  for folder, message in (('missing', 'does not exist'), ('empty', 'holds no images'),
                          ('real/a.png', 'is a file')):
    folder = str(tmp_path / folder)
    for folders in ((folder, [real]), (real, [folder]), (real, [real, folder]),
                    (real, [real], folder)):
      with pytest.raises(UserError, match=message):
        image_folders.pair(*folders)


def test_names_that_differ_in_their_endings_alone(tmp_path):
  real = write(tmp_path / 'real', ['a.png', 'a.jpg'])
  with pytest.raises(UserError, match='a.jpg.*a.png. differ in their endings alone'):
    image_folders.pair(real, [real])


@pytest.fixture
def example(tmp_path):
  real = write(tmp_path, ['real.png'], 100, (20, 12))
  result = np.full((12, 20), 100, np.uint8)
  result[:6, :10] = 130
  Image.fromarray(result).save(tmp_path / 'result.png')
  mask = np.full((12, 20), 255, np.uint8)
  mask[:6] = 254
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  return image_folders.Example(0, 0, f'{real}/real.png', (f'{real}/real.png', f'{real}/result.png'),
                               f'{real}/mask.png')


def test_load(example):
  loaded = image_folders.load(example)
  assert loaded.real.shape == loaded.results[1].shape == (12, 20, 3)
  assert loaded.keep.shape == (12, 20, 1) and loaded.keep.dtype == bool
  assert not loaded.keep[:6].any() and loaded.keep[6:].all() and loaded.grey == 120
  assert image_folders.load(example._replace(mask=None)).keep is None


def test_inspect(example):
  metadata = image_folders.inspect(example)
  assert metadata == ((12, 20), 0.5, (0.0, 0.0), (0.0, 15.0), 120)
  shape, ratio, *rest = image_folders.inspect(example._replace(mask=None))
  assert shape == (12, 20) and np.isnan(ratio) and rest == [(), (), 0]


def test_inspect_without_a_hole_or_without_anything_kept(example, tmp_path):
  for level, ratio, kept, hole in ((255, 0, 7.5, 0), (0, 1, 0, 7.5)):
    write(tmp_path, ['mask.png'], level, (20, 12))
    assert image_folders.inspect(example) == ((12, 20), ratio, (0, kept), (0, hole), 0)


def test_a_pair_or_a_mask_of_another_size_is_named(example, tmp_path):
  write(tmp_path, ['result.png'], size=(12, 20))
  with pytest.raises(UserError, match='real.png. has 20 x 12 pixels and .*result.png. has 12 x 20;'):
    image_folders.load(example)
  write(tmp_path, ['mask.png'], size=(20, 13))
  with pytest.raises(UserError, match='real.png. has 20 x 12 .*mask.png. has 20 x 13;'):
    image_folders.load(example._replace(results=()))


@pytest.mark.parametrize('name', ['real', 'result', 'mask'])
def test_an_unreadable_file_is_named(example, tmp_path, name):
  (tmp_path / f'{name}.png').write_bytes(b'no image')
  with pytest.raises(UserError, match=f'{name}.png. cannot be read .not an image.'):
    image_folders.load(example)


def test_batches_are_of_one_shape_and_length():
  shapes = [(8, 8), (9, 8), (8, 8), (8, 8), (8, 9), (9, 8), (8, 8), (8, 8)]
  batches = image_folders.batches_by_shape(shapes, 3)
  assert [batch.tolist() for batch in batches] == [[0, 2, 3], [6, 7, 7], [1, 5], [4]]
