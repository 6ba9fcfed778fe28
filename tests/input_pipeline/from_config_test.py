"""What the fields of a configuration make of the from_config."""

import itertools
import pathlib
import shutil
import zipfile

import numpy as np
from PIL import Image
import pyarrow
from pyarrow import parquet
import pytest

from configs import wikiart
from input_pipeline import from_config, prepare
from input_pipeline.preparing.preparation import Settings
from input_pipeline.wikiart_portraits import PortraitsConfig
from mat_jax.errors import UserError

RESOLUTION = 64


def small_config(data_dir, **fields):
  """The configuration of WikiArt at a small size."""
  config = wikiart.get_config()
  config.data_dir = str(data_dir)
  config.model.resolution = RESOLUTION
  config.update_from_flattened_dict(fields)
  return config


def train(config, count=2):
  stream = from_config.training_stream(config, *from_config.open_training(config), 0, 0, 1)
  return list(itertools.islice(stream, count))


def evaluate(config, split='test', mask_set='large'):
  portraits, masks = from_config.open_evaluation(config, split, mask_set)
  stream, count = from_config.evaluation_stream(config, portraits, masks, 0, 1)
  batches = list(stream)
  assert len(batches) == count
  return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Twenty pictures of different sizes."""
  root = tmp_path_factory.mktemp('data') / 'folder'
  root.mkdir()
  rng = np.random.default_rng(0)
  for i in range(20):
    picture = Image.fromarray(rng.integers(256, size=(6, 5, 3), dtype=np.uint8))
    picture.resize((70 + i, 90), Image.Resampling.BICUBIC).save(root / f'{i:02}.png')
  return root


def as_zip(folder, target):
  with zipfile.ZipFile(target, 'w') as archive:
    for path in sorted(folder.iterdir()):
      archive.write(path, path.name)
  return target


def as_artgan(folder, target):
  shutil.copytree(folder, target / 'Style')
  Image.new('RGB', (90, 90)).save(target / 'Style' / 'landscape.png')
  rows = [f'Style/{path.name},6\n' for path in sorted(folder.iterdir())]
  (target / 'genre_train.csv').write_text(''.join(rows[:10]) + 'Style/landscape.png,4\n')
  (target / 'genre_val.csv').write_text(''.join(rows[10:]))
  return target


def as_parquet(folder, target):
  target.mkdir()
  images = [{'bytes': path.read_bytes(), 'path': None} for path in sorted(folder.iterdir())]
  table = pyarrow.table({'image': [images[0], *images], 'genre': [4] + [6] * len(images)})
  parquet.write_table(table, target / 'train-00000-of-00001.parquet', row_group_size=7)
  return target


def as_data_set(folder, target):
  prepare.prepare(str(folder), str(target), PortraitsConfig(
      name='x', settings=Settings(RESOLUTION, quality=100)))
  return target


@pytest.mark.parametrize(
    ('convert', 'tolerance'),
    [(as_zip, 0), (as_artgan, 0), (as_parquet, 0), (as_data_set, 0.01)])
def test_wikiart_finds_out_what_it_is_given(folder, tmp_path, convert, tolerance):
  expected = small_config(folder)
  found = small_config(convert(folder, tmp_path / 'converted'))
  for first, second in zip(train(expected), train(found), strict=True):
    np.testing.assert_array_equal(first['mask'], second['mask'])
    assert np.abs(first['image'] - second['image']).mean() <= tolerance
  first, second = evaluate(expected), evaluate(found)
  np.testing.assert_array_equal(first['mask'], second['mask'])
  assert np.abs(first['image'] - second['image']).mean() <= tolerance


def test_data_sets_prepared_for_smaller_models_are_refused(folder, tmp_path):
  prepared = as_data_set(folder, tmp_path / 'set')
  assert len(train(small_config(prepared, **{'model.resolution': 32}))) == 2
  with pytest.raises(UserError, match='prepared with 64 pixels.*--resolution=128'):
    train(small_config(prepared, **{'model.resolution': 128}))


def test_sample_batch_is_the_start_of_the_validation_split(folder):
  config = small_config(folder)
  samples = from_config.sample_batch(config, 4)
  validation = evaluate(config, 'validation')
  assert len(samples['image']) == 2  # of twenty
  for name, found in samples.items():
    np.testing.assert_array_equal(found, validation[name][::config.eval.masks_per_image][:2])


def write_masks(root, names):
  root.mkdir()
  for i, name in enumerate(names):
    mask = np.full((RESOLUTION, RESOLUTION), 255, np.uint8)
    mask[:i + 1] = 0
    Image.fromarray(mask).save(root / name)
  return str(root)


def test_mask_folders(folder, tmp_path):
  stems = [path.stem for path in sorted(folder.iterdir())]
  matched = write_masks(tmp_path / 'matched', [f'{stem}_{j}.png' for stem in stems
                                               for j in range(2)])
  config = small_config(folder, **{'eval.mask_dir': matched, 'eval.masks_per_image': 2})
  batch = evaluate(config)
  (image,) = np.unique(batch['image_index'][batch['valid']])
  assert image == 0 and np.count_nonzero(batch['valid']) == 2
  holes = (1 - batch['mask'][:2, :, 0, 0]).sum(1)
  assert holes[1] == holes[0] + 1
  assert (train(config)[0]['mask'].min((1, 2, 3)) == 0).all()  # random ones
  config = small_config(folder, **{'eval.mask_dir': matched, 'eval.masks_per_image': 3})
  with pytest.raises(UserError, match='2 masks for an image where 3 are asked'):
    evaluate(config)
  # Before training, not at the first validation.
  with pytest.raises(UserError, match='2 masks for an image where 3 are asked'):
    from_config.open_training(config)
  cycle = write_masks(tmp_path / 'cycle', ['a.png', 'b.png', 'c.png'])
  config = small_config(folder, **{'data.mask_dir': cycle})
  masks = np.concatenate([batch['mask'] for batch in train(config, 3)])
  assert sorted((1 - masks[:, :, 0, 0]).sum(1).tolist()) == [1] * 8 + [2] * 8 + [3] * 8


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'data.crop': 'left'}, "unknown crop 'left'"),
        ({'data.mask_preset': 'medium'}, "unknown mask preset 'medium'"),
        ({'eval.mask_preset': 'tiny'}, "unknown mask preset 'tiny'"),
        ({'eval.hole_range': (0.5, 0.1)}, 'hole range'),
        ({'data.split': 'training'}, "unknown split 'training'"),
        ({'eval.mask_dir': 'nowhere'}, "'nowhere' does not exist"),
        ({'data.mask_order': 'any', 'data.mask_dir': '.'}, "unknown order of masks 'any'"),
    ])
def test_wrong_fields_are_found_before_training(folder, fields, message):
  with pytest.raises(UserError, match=message):
    from_config.open_training(small_config(folder, **fields))


def test_masks_of_another_size_are_found_before_training(folder, tmp_path):
  Image.new('L', (32, 32)).save(tmp_path / 'a.png')
  with pytest.raises(UserError, match='a.png.*32 x 32 pixels; give masks of 64 x 64'):
    from_config.open_training(small_config(folder, **{'data.mask_dir': str(tmp_path)}))


def test_pictures_are_never_written(folder):
  before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
  train(small_config(folder))
  assert {path.name: path.stat().st_mtime_ns for path in pathlib.Path(folder).iterdir()} == before
