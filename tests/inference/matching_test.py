import os

from PIL import Image
import pytest

from mat_jax.errors import UserError
from mat_jax.inference.matching import match_files


def _folder(path, names):
  path.mkdir()
  for name in names:
    Image.new('RGB', (64, 64), 'white').save(path / name)
  return str(path)


def _names(pairs):
  return [tuple(os.path.basename(path) for path in pair) for pair in pairs]


def test_files_are_matched_by_stem(tmp_path):
  images = _folder(tmp_path / 'i', ['b.jpg', 'a.png'])
  masks = _folder(tmp_path / 'm', ['a.png', 'b.png', 'c.png'])
  assert _names(match_files(images, masks)) == [('a.png', 'a.png'), ('b.jpg', 'b.png')]
  one = os.path.join(masks, 'a.png')
  assert [mask for _, mask in match_files(images, one)] == [one, one]
  assert match_files(images, None) == [
      (os.path.join(images, name), None) for name in ('a.png', 'b.jpg')]


def test_patterns_and_several_paths(tmp_path):
  images = _folder(tmp_path / 'i', ['b.jpg', 'a.png', 'c.png'])
  masks = _folder(tmp_path / 'm', ['a.png', 'b.png', 'c.png'])
  assert _names(match_files(f'{images}/*.png', f'{masks}/[ac].png')) == [
      ('a.png', 'a.png'), ('c.png', 'c.png')]
  assert _names(match_files([f'{images}/b.jpg', f'{images}/c.png'], masks)) == [
      ('b.jpg', 'b.png'), ('c.png', 'c.png')]
  with pytest.raises(UserError, match=r'no file matches .*\*.tif'):
    match_files(f'{images}/*.tif', masks)
  with pytest.raises(UserError, match=r'd\.png does not exist; give .* as files, folders'):
    match_files(f'{images}/d.png', masks)


@pytest.mark.parametrize('image_names,mask_names,message', [
    (['a.png'], ['b.png'], 'no mask for .*a.png'),
    (['a.png', 'a.jpg'], ['a.png'], 'rename one')])
def test_files_that_do_not_match(tmp_path, image_names, mask_names, message):
  images = _folder(tmp_path / 'i', image_names)
  with pytest.raises(UserError, match=message):
    match_files(images, _folder(tmp_path / 'm', mask_names))
