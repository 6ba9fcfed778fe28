"""Finding out what a collection is, and its splits."""

import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest

from input_pipeline import image_dataset
from input_pipeline.sources.source import Unsplit
from mat_jax.errors import UserError


class Named(Unsplit):
  """A source of names alone."""

  def __init__(self, names, location='here'):
    self.location, self.names = location, sorted(names)

  def __len__(self):
    return len(self.names)

  def name(self, index):
    return self.names[index]

  def read(self, index):
    raise OSError('nothing to read')


def named(names, location='here'):
  source = Named(names, location)
  return image_dataset.ImageDataset(source, range(len(source)))


def names(collection):
  return [collection.source.name(position) for position in collection.positions]


def fill(folder, *files):
  """Puts small images there."""
  for i, file in enumerate(files):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (20, 24), (i, 0, 0)).save(path, 'PNG')


def test_samples_come_with_the_project():
  collection = image_dataset.open_dataset('samples')
  assert len(collection) == 33
  folder = pathlib.Path(image_dataset.__file__).parent / 'samples'
  assert (folder / 'README.md').exists() and (folder / 'portraits.csv').exists()
  assert collection.load(0, 64).shape == (64, 64, 3)


def test_images_in_all_folders_sorted(tmp_path):
  fill(tmp_path, 'b/2.PNG', 'b/1.jpg', 'a.webp', 'c.bmp', 'b-1.jpeg', '._a.jpg', '.hidden/b.jpg',
       'table.csv')
  collection = image_dataset.open_dataset(str(tmp_path))
  assert names(collection) == ['a.webp', 'b-1.jpeg', 'b/1.jpg', 'b/2.PNG', 'c.bmp']
  assert collection.stems() == ['a', 'b-1', 'b/1', 'b/2', 'c']
  assert collection.name(2) == f'{tmp_path}/b/1.jpg'
  assert collection.load(2, 16)[0, 0].tolist() == [1, 0, 0]


def test_a_genre_has_no_effect_on_plain_folders(tmp_path):
  fill(tmp_path, 'a.png', 'b.png')
  assert len(image_dataset.open_dataset(str(tmp_path), 'portrait')) == 2


def test_links_that_lead_out_are_left_out(tmp_path):
  fill(tmp_path, 'outside/secret.png', 'data/a.png', 'data/b/c.png')
  (tmp_path / 'data' / 'link.png').symlink_to(tmp_path / 'outside' / 'secret.png')
  (tmp_path / 'data' / 'folder').symlink_to(tmp_path / 'outside')
  (tmp_path / 'data' / 'inside.png').symlink_to(tmp_path / 'data' / 'a.png')
  collection = image_dataset.open_dataset(str(tmp_path / 'data'))
  assert names(collection) == ['a.png', 'b/c.png', 'inside.png']
  (tmp_path / 'shortcut').symlink_to(tmp_path / 'data')
  assert len(image_dataset.open_dataset(str(tmp_path / 'shortcut'))) == 3


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('', 'data_dir is empty'),
        ('missing', 'missing.*does not exist'),
        ('file.jpg', 'file.jpg.*neither a zip archive nor'),
        ('empty', 'empty.*holds no images; put'),
        ('zipped', 'zipped.*holds no images; give the archive .*faces.zip'),
        ('broken.zip', 'broken.zip.*not a readable zip'),
        ('broken.parquet', 'broken.parquet.*not a readable parquet file'),
        ('twice', 'twice.*several data sets; give one of .*/a, .*/b'),
    ])
def test_what_is_no_collection(tmp_path, monkeypatch, name, message):
  monkeypatch.chdir(tmp_path)
  for file in ('file.jpg', 'broken.zip', 'broken.parquet', 'zipped/faces.zip', 'empty/notes.txt',
               'twice/a/dataset_info.json', 'twice/b/dataset_info.json'):
    pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(file).write_text('nothing')
  with pytest.raises(UserError, match=message):
    image_dataset.open_dataset(name)


def test_unreadable_images_are_named(tmp_path):
  fill(tmp_path, 'a.png')
  (tmp_path / 'b.png').write_bytes((tmp_path / 'a.png').read_bytes()[:45])
  collection = image_dataset.open_dataset(str(tmp_path))
  assert collection.load(0, 16).shape == (16, 16, 3)
  with pytest.raises(UserError, match='b.png.*cannot be read.*repair or remove'):
    collection.load(1, 16)
  (tmp_path / 'a.png').unlink()
  with pytest.raises(UserError, match='a.png.*cannot be read'):
    collection.load(0, 16)


@pytest.mark.parametrize(
    ('count', 'sizes'),
    [(3, (1, 1, 1)), (4, (2, 1, 1)), (10, (8, 1, 1)), (33, (28, 3, 2)), (7009, (5957, 700, 352))])
def test_split_sizes(count, sizes):
  collection = named(f'{i:05}.jpg' for i in range(count))
  parts = [collection.split(name) for name in image_dataset.SPLITS]
  assert tuple(map(len, parts)) == sizes
  assert sorted(sum(map(names, parts), [])) == names(collection)
  assert all(names(part) == sorted(names(part)) for part in parts)
  assert names(collection.split('all')) == names(collection)


@pytest.mark.parametrize(('count', 'sizes'), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1)),
                                              (20, (18, 2)), (105, (95, 10))])
def test_a_split_without_test(count, sizes):
  parts = image_dataset.draw_splits(count, 5, with_test=False)
  assert tuple(len(parts[name]) for name in image_dataset.SPLITS) == (*sizes, 0)
  assert sorted([*parts['train'], *parts['validation']]) == list(range(count))


def test_split_does_not_depend_on_place_or_order_of_the_parts():
  files = [f'{"ab"[i % 2]}/{i * 37 % 101}.jpg' for i in range(50)]
  here = named(files, 'here').split('validation+test')
  there = named(reversed(files), 'there').split('test+validation')
  assert names(here) == names(there)
  assert names(here) != names(named(files).split('validation+test', seed=1))


def test_a_copy_of_the_samples_is_split_alike(tmp_path):
  shutil.copytree(pathlib.Path(image_dataset.__file__).parent / 'samples', tmp_path / 'copy')
  parts = [names(image_dataset.open_dataset(place).split('validation'))
           for place in ('samples', str(tmp_path / 'copy'))]
  assert parts[0] == parts[1] and len(parts[0]) == 3


@pytest.mark.parametrize(('name', 'count'), [('training', 9), ('train+', 9), ('test', 2)])
def test_splits_that_are_none(name, count):
  with pytest.raises(UserError, match='split'):
    named(f'{i}.jpg' for i in range(count)).split(name)


def test_stored_splits_are_kept():
  collection = named(f'{i}.jpg' for i in range(6))
  collection.source.splits = {
      'train': range(0, 3), 'test': range(3, 4), 'validation': range(4, 6)}
  assert names(collection.split('train', seed=5)) == ['0.jpg', '1.jpg', '2.jpg']
  assert names(collection.split('test+validation')) == ['3.jpg', '4.jpg', '5.jpg']
  collection.source.split_seed = 123
  assert len(collection.split('train')) == 3
  with pytest.raises(UserError, match='split with the seed 123; set --config.data.split_seed=123'):
    collection.split('train', seed=5)
  collection.source.splits = {'train': range(6)}
  assert len(collection.split('train', seed=5)) == 4


def test_squares_are_cut_as_asked(tmp_path):
  fill(tmp_path, 'a.png')
  array = np.zeros((64, 32, 3), np.uint8)
  array[:32] = 200
  Image.fromarray(array).save(tmp_path / 'a.png')
  collection = image_dataset.open_dataset(str(tmp_path))
  assert (collection.load(0, 32) == 200).all()
  assert collection.load(0, 32, 'center')[-1].max() == 0
  rng = np.random.default_rng(0)
  levels = {collection.load(0, 16, 'random_crop', rng).mean() for _ in range(30)}
  assert len(levels) > 3
