import os

import numpy as np
from PIL import Image
import pytest

from mat_jax.errors import UserError
from mat_jax.inference import image_files
from mat_jax.inference.inpainter import Inpainter, Window, find_window
from mat_jax.runtime import images


@pytest.fixture(scope='module')
def inpainter(trained):
  return Inpainter.from_checkpoint(trained[0])


def _picture(height, width):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  mask = np.ones((height, width), bool)
  mask[height // 3:height // 2, width // 4:width // 2] = False
  return image, mask


@pytest.mark.parametrize('height,width', [(64, 64), (200, 150), (90, 301), (30, 40)])
def test_any_size_keeps_what_is_kept(inpainter, height, width):
  image, mask = _picture(height, width)
  results = inpainter.inpaint(image, mask, num_samples=2)
  assert results.shape == (2, height, width, 3) and results.dtype == np.uint8
  for result in results:
    np.testing.assert_array_equal(result[mask], image[mask])
    assert np.any(result[~mask] != image[~mask])
  assert np.any(results[0] != results[1]), 'samples differ'


def test_the_hole_does_not_reach_the_result(inpainter):
  image, mask = _picture(150, 150)
  other = image.copy()
  other[~mask] = 255 - other[~mask]
  np.testing.assert_array_equal(inpainter.inpaint(image, mask), inpainter.inpaint(other, mask))


def test_the_seed_decides(inpainter):
  image, mask = _picture(64, 64)
  first, again, other = (inpainter.inpaint(image, mask, seed=s) for s in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_without_a_hole_nothing_changes(inpainter):
  image, mask = _picture(64, 64)
  np.testing.assert_array_equal(inpainter.inpaint(image, np.ones_like(mask))[0], image)
  assert inpainter.inpaint(image, np.zeros_like(mask)).shape == (1, 64, 64, 3)


def test_wrong_arrays_are_named(inpainter):
  image, mask = _picture(64, 64)
  with pytest.raises(UserError, match='float64'):
    inpainter.inpaint(image / 255.0, mask)
  with pytest.raises(UserError, match='the mask is'):
    inpainter.inpaint(image, mask[:-1])


def test_arrays_mean_what_files_mean(inpainter, caplog):
  image, mask = _picture(64, 64)
  soft = np.where(mask, 255, 0).astype(np.uint8)
  soft[0, :5] = 254
  mask[0, :5] = False
  with caplog.at_level('WARNING'):
    expected = inpainter.inpaint(image, mask)
    assert not caplog.messages
    for array in (soft, soft[..., None], soft / np.float32(255)):
      np.testing.assert_array_equal(inpainter.inpaint(image, array), expected)
  assert [message.split(' pixels')[0] for message in caplog.messages] == [
      'The mask: 5 of 4,096'] * 3
  np.testing.assert_array_equal(inpainter.inpaint(image, mask.astype(np.uint8)), expected)
  with pytest.raises(UserError, match='the mask is float64 with values from 0.0 to 255.0'):
    inpainter.inpaint(image, 255.0 * mask)


@pytest.mark.parametrize('size,hole,expected', [
    ((64, 64), (10, 20, 10, 20), Window(0, 0, 64)),
    ((300, 400), (100, 120, 200, 220), Window(78, 178, 64)),
    ((300, 400), (0, 20, 390, 400), Window(0, 336, 64)),
    ((300, 400), (0, 300, 0, 400), Window(-50, 0, 400)),
    ((100, 400), (40, 60, 0, 200), Window(-100, 0, 300)),
    ((40, 30), (0, 5, 0, 5), Window(0, -5, 40)),
])
def test_windows_hold_the_hole_and_stay_inside(size, hole, expected):
  array = np.zeros(size, bool)
  array[hole[0]:hole[1], hole[2]:hole[3]] = True
  assert find_window(array, 64) == expected


def _folder(path, names, size=(64, 64)):
  path.mkdir()
  for name in names:
    Image.new('RGB', size, 'white').save(path / name)
  return str(path)


def test_files_are_matched_by_stem(tmp_path):
  image_folder = _folder(tmp_path / 'i', ['b.jpg', 'a.png'])
  masks = _folder(tmp_path / 'm', ['a.png', 'b.png', 'c.png'])
  pairs = [tuple(os.path.basename(p) for p in pair) for pair in image_files.match_files(image_folder, masks)]
  assert pairs == [('a.png', 'a.png'), ('b.jpg', 'b.png')]
  one = os.path.join(masks, 'a.png')
  assert [mask for _, mask in image_files.match_files(image_folder, one)] == [one, one]


@pytest.mark.parametrize('image_names,mask_names,message', [
    (['a.png'], ['b.png'], 'no mask for .*a.png'),
    (['a.png', 'a.jpg'], ['a.png'], 'rename one')])
def test_files_that_do_not_match(tmp_path, image_names, mask_names, message):
  image_folder = _folder(tmp_path / 'i', image_names)
  with pytest.raises(UserError, match=message):
    image_files.match_files(image_folder, _folder(tmp_path / 'm', mask_names))


def test_writes_png_files_and_checks_before_it_starts(trained, tmp_path):
  workdir, config = trained
  config = config.copy_and_resolve_references()
  config.inpaint.images = _folder(tmp_path / 'i', ['a.png', 'b.png'], (50, 70))
  config.inpaint.masks = _folder(tmp_path / 'm', ['a.png'], (50, 70))
  Image.new('L', (50, 60)).save(tmp_path / 'm' / 'b.png')
  config.inpaint.output = str(tmp_path / 'out')
  with pytest.raises(UserError, match='b.png is 50 x 60, its image .* 50 x 70'):
    image_files.inpaint_files(config, workdir)
  assert not os.path.exists(tmp_path / 'out')
  Image.new('L', (50, 70)).save(tmp_path / 'm' / 'b.png')
  config.inpaint.num_samples = 2
  image_files.inpaint_files(config, workdir)
  assert sorted(os.listdir(tmp_path / 'out')) == ['a_0.png', 'a_1.png', 'b_0.png', 'b_1.png']
  kept = np.asarray(Image.open(tmp_path / 'out' / 'a_0.png'))
  assert np.all(kept == 255)


@pytest.fixture
def files(trained, tmp_path):
  """A config that asks for five pictures with a hole, and the folder of results."""
  config = trained[1].copy_and_resolve_references()
  names = [f'{name}.png' for name in 'abcde']
  config.inpaint.images = _folder(tmp_path / 'images', names, (70, 50))
  config.inpaint.masks = _folder(tmp_path / 'masks', names, (70, 50))
  for name in names:
    mask = Image.new('L', (70, 50), 255)
    mask.paste(0, (10, 10, 30, 30))
    mask.putpixel((0, 0), 254)
    mask.save(tmp_path / 'masks' / name)
  config.inpaint.output = str(tmp_path / 'out')
  return config


def test_processes_share_the_images(trained, files, monkeypatch):
  written, met = [], []
  for index in range(2):
    monkeypatch.setattr('jax.process_count', lambda: 2)
    monkeypatch.setattr('jax.process_index', lambda index=index: index)
    monkeypatch.setattr(image_files.cluster, 'barrier', met.append)
    image_files.inpaint_files(files, trained[0])
    written.append(sorted(os.listdir(files.inpaint.output)))
    for name in written[-1]:
      os.remove(os.path.join(files.inpaint.output, name))
  assert written == [['a.png', 'c.png', 'e.png'], ['b.png', 'd.png']]
  assert met == ['inpaint its images'] * 2, 'each waits for the other in the end'


@pytest.mark.parametrize('shared', [False, True])
def test_every_file_is_decoded_once(trained, files, monkeypatch, shared, caplog):
  if shared:
    files.inpaint.masks = os.path.join(files.inpaint.masks, 'b.png')
  decoded = []
  read = images.read_limited

  def read_and_count(file):
    decoded.append(os.path.relpath(file.name, os.path.dirname(files.inpaint.images)))
    return read(file)

  monkeypatch.setattr(images, 'read_limited', read_and_count)
  with caplog.at_level('WARNING'):
    image_files.inpaint_files(files, trained[0])
  masks = ['masks/b.png'] if shared else [f'masks/{name}.png' for name in 'abcde']
  assert sorted(decoded) == [f'images/{name}.png' for name in 'abcde'] + masks
  notices = [message for message in caplog.messages if 'neither black nor white' in message]
  assert [notice.split(' of 3,500')[0][-8:] for notice in notices] == [
      f'{mask[-5:]}: 1' for mask in masks]


def test_a_broken_file_is_named_when_the_others_are_written(trained, files):
  for name in ('images/b.png', 'masks/d.png'):
    path = os.path.join(os.path.dirname(files.inpaint.images), name)
    with open(path, 'rb') as file:
      data = file.read()
    with open(path, 'wb') as file:
      file.write(data[:60])
  with pytest.raises(UserError, match=r'2 of 5 images are not done, the others are: the image '
                     r'.*images/b.png. cannot be read .*\(and 1 more, see above\)'):
    image_files.inpaint_files(files, trained[0])
  assert sorted(os.listdir(files.inpaint.output)) == ['a.png', 'c.png', 'e.png']


def test_a_png_that_tells_at_its_end_that_it_lies_on_its_side(trained, files):
  path = os.path.join(files.inpaint.images, 'c.png')
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.new('RGB', (50, 70), 'white').save(path, exif=exif)
  with open(path, 'rb') as file:
    data = file.read()
  start = data.index(b'eXIf') - 4
  end = start + 12 + int.from_bytes(data[start:start + 4], 'big')
  with open(path, 'wb') as file:
    file.write(data[:start] + data[end:-12] + data[start:end] + data[-12:])
  assert images.read_size(path) == (50, 70)
  image_files.inpaint_files(files, trained[0])
  assert Image.open(os.path.join(files.inpaint.output, 'c.png')).size == (70, 50)
