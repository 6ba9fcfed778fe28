import os

import numpy as np
from PIL import Image
import pytest

from mat_jax.errors import UserError
from mat_jax.inference import from_config, image_files
from mat_jax.pictures import pictures

NAMES = [f'{name}.png' for name in 'abcde']


def _folder(path, size):
  path.mkdir()
  for name in NAMES:
    Image.new('RGB', size, 'white').save(path / name)
  return str(path)


@pytest.fixture
def files(trained, tmp_path):
  """A config that asks for five pictures with a hole, and the folder of results."""
  config = trained[1].copy_and_resolve_references()
  config.inpaint.images = _folder(tmp_path / 'images', (70, 50))
  config.inpaint.masks = _folder(tmp_path / 'masks', (70, 50))
  for name in NAMES:
    mask = Image.new('L', (70, 50), 255)
    mask.paste(0, (10, 10, 30, 30))
    mask.putpixel((0, 0), 254)
    mask.save(tmp_path / 'masks' / name)
  config.inpaint.output = str(tmp_path / 'out')
  return config


def _results(names, seeds=(0,)):
  return sorted(f'{name}_seed{seed}{suffix}' for name in names for seed in seeds
                for suffix in ('.png', '.json'))


def test_checks_all_before_it_starts_and_overwrites_nothing(trained, files):
  wrong = os.path.join(files.inpaint.masks, 'b.png')
  Image.new('L', (70, 60)).save(wrong)
  with pytest.raises(UserError, match='b.png is 70 x 60, its image .* 70 x 50'):
    from_config.inpaint(files, trained[0])
  assert not os.path.exists(files.inpaint.output)
  Image.new('L', (70, 50), 255).save(wrong)
  files.inpaint.num_samples = 2
  from_config.inpaint(files, trained[0])
  assert sorted(os.listdir(files.inpaint.output)) == _results('abcde', (0, 1))
  unchanged = np.asarray(Image.open(os.path.join(files.inpaint.output, 'b_seed0.png')))
  assert np.all(unchanged == 255)
  with pytest.raises(UserError, match='a_seed0.png exists; .*--overwrite'):
    from_config.inpaint(files, trained[0])
  files.inpaint.seed = 2
  files.inpaint.num_samples = 1
  from_config.inpaint(files, trained[0])
  assert sorted(os.listdir(files.inpaint.output)) == _results('abcde', (0, 1, 2))


@pytest.mark.parametrize('field', ['images', 'masks'])
def test_empty_fields_are_named(trained, files, field):
  files.inpaint[field] = ''
  with pytest.raises(UserError, match=f'set --config.inpaint.{field}'):
    from_config.inpaint(files, trained[0])


def test_processes_share_the_images(trained, files, monkeypatch):
  written, met = [], []
  for index in range(2):
    monkeypatch.setattr('jax.process_count', lambda: 2)
    monkeypatch.setattr('jax.process_index', lambda index=index: index)
    monkeypatch.setattr(from_config.cluster, 'barrier', met.append)
    from_config.inpaint(files, trained[0])
    written.append(sorted(os.listdir(files.inpaint.output)))
    for name in written[-1]:
      os.remove(os.path.join(files.inpaint.output, name))
  assert written == [_results('ace'), _results('bd')]
  assert met == ['inpaint its images'] * 2, 'each waits for the other in the end'


@pytest.mark.parametrize('shared', [False, True])
def test_every_file_is_decoded_once(trained, files, monkeypatch, shared, caplog):
  if shared:
    files.inpaint.masks = os.path.join(files.inpaint.masks, 'b.png')
  decoded = []
  read = pictures.read_picture

  def read_and_count(path, *arguments):
    decoded.append(os.path.relpath(path, os.path.dirname(files.inpaint.images)))
    return read(path, *arguments)

  monkeypatch.setattr(image_files.pictures, 'read_picture', read_and_count)
  with caplog.at_level('INFO'):
    from_config.inpaint(files, trained[0])
  masks = ['masks/b.png'] if shared else [f'masks/{name}' for name in NAMES]
  assert sorted(decoded) == [f'images/{name}' for name in NAMES] + masks
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
  with pytest.raises(UserError, match=r'2 of 5 images are not done, the others are: .*'
                     r'images/b.png.*\(and 1 more, see above\)'):
    from_config.inpaint(files, trained[0])
  assert sorted(os.listdir(files.inpaint.output)) == _results('ace')
