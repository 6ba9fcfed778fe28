"""The prepared data set: what is kept, how it is stored, and who may read it."""

import io
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image, ImageOps
import platformdirs
import pytest
import tensorflow_datasets as tfds

from input_pipeline import image_dataset, pipeline, prepare
from input_pipeline.mask_files import random_masks
from input_pipeline.preparing.preparation import Settings
from input_pipeline.wikiart_portraits import PortraitsConfig
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets
from tests.support.figures import draw_figure
from tests.support.paths import ROOT

RESOLUTION = 32


def config(**options):
  return PortraitsConfig(name='prepared', settings=Settings(RESOLUTION, **options))


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """Twelve images, two of them again under other names, two broken files."""
  folder = tmp_path_factory.mktemp('raw')
  rng = np.random.default_rng(0)
  (folder / 'more').mkdir()
  for i in range(12):
    small = rng.integers(256, size=(4, 3, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((60, 80) if i % 3 else (80, 50), Image.Resampling.BICUBIC)
    image.save(folder / ('more' if i % 2 else '') / f'{i:02}.png')
  shutil.copy(folder / '00.png', folder / 'again.png')
  Image.open(folder / '02.png').save(folder / 'more' / 'stored otherwise.bmp')
  (folder / 'broken.jpg').write_bytes((folder / '04.png').read_bytes()[:100])
  Image.new('L', (8, 400)).save(folder / 'stripe.png')
  return str(folder)


@pytest.fixture(scope='module')
def prepared(raw, tmp_path_factory):
  output = str(tmp_path_factory.mktemp('prepared'))
  return prepare.prepare(raw, output, config(split_seed=7))


def test_from_a_bucket_into_a_bucket(raw, prepared, bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(platformdirs, 'user_cache_dir', lambda name: str(tmp_path))
  address, _ = bucket
  buckets.upload(raw, f'{address}/raw', buckets.files_of(raw))
  output = prepare.prepare(f'{address}/raw', f'{address}/prepared', config(split_seed=7))
  assert output.startswith(f'{address}/prepared/')
  assert '12 images (10 train, 1 validation, 1 test)' in prepare.summary(output)
  found = image_dataset.open_dataset(f'{address}/prepared')
  wanted = everything(image_dataset.open_dataset(prepared))
  assert found.name(0).startswith(f'{address}/prepared/')
  assert everything(found).keys() == wanted.keys()
  for name, image in everything(found).items():
    np.testing.assert_array_equal(image, wanted[name])
  with pytest.raises(UserError, match=f"'{address}/no' does not exist"):
    image_dataset.open_dataset(f'{address}/no')


def everything(collection):
  return {name: collection.load(i, RESOLUTION) for i, name in enumerate(collection.stems())}


def test_broken_files_and_duplicates_are_left_out_and_reported(prepared):
  report = json.loads(pathlib.Path(prepared, 'report.json').read_text())
  assert report['images'] == 12 and report['splits'] == {'train': 10, 'validation': 1, 'test': 1}
  assert [entry['name'] for entry in report['broken']] == ['broken.jpg', 'stripe.png']
  assert 'not an image' in report['broken'][0]['problem'] or 'truncated' in (
      report['broken'][0]['problem'])
  assert report['duplicates'] == [
      {'name': 'again.png', 'same_as': '00.png'},
      {'name': 'more/stored otherwise.bmp', 'same_as': '02.png'}]
  assert '12 images (10 train, 1 validation, 1 test)' in prepare.summary(prepared)
  assert 'left out: 2 duplicates, again.png for one' in prepare.summary(prepared)


@pytest.mark.parametrize('above', [0, 1, 2, 3])
def test_the_data_set_is_found_from_above(prepared, above):
  folder = pathlib.Path(prepared).parents[above - 1] if above else prepared
  collection = image_dataset.open_dataset(str(folder))
  assert len(collection) == 12 and len(collection.split('test', seed=7)) == 1


def test_images_are_resized_not_cut(prepared, raw):
  collection = image_dataset.open_dataset(prepared)
  sizes = set()
  for i in range(12):
    with Image.open(io.BytesIO(collection.source.read(i))) as image:
      assert image.format == 'JPEG'
      sizes.add(image.size)
  assert sizes == {(32, 43), (51, 32)}
  original = everything(keep(raw, collection.stems()))
  for name, image in everything(collection).items():
    # A landscape format is cut up to half a pixel elsewhere.
    assert np.abs(image.astype(int) - original[name]).mean() < 5, name


def keep(raw, stems):
  """The images of a folder that have these names."""
  collection = image_dataset.open_dataset(raw)
  positions = [i for i, stem in enumerate(collection.stems()) if stem in stems]
  return image_dataset.ImageDataset(collection.source, positions)


def test_it_streams_what_the_folder_streams(prepared, raw):
  stored = image_dataset.open_dataset(prepared)
  folder = keep(raw, stored.stems())
  batches = []
  for collection in (stored, folder):
    stream = pipeline.training_batches(
        collection.split('train', seed=7), random_masks(RESOLUTION, 'large'),
        resolution=RESOLUTION, batch_size=6, seed=1)
    batches.append(list(itertools.islice(stream, 4)))
  for first, second in zip(*batches, strict=True):
    differences = np.abs(first['image'] - second['image']).mean((1, 2, 3))
    others = np.abs(first['image'] - np.roll(second['image'], 1, 0)).mean((1, 2, 3))
    assert (differences < 0.04).all() and others.mean() > 0.2


def test_tensorflow_datasets_reads_it(prepared):
  builder = tfds.builder_from_directory(prepared)
  assert builder.info.full_name == 'wikiart_portraits/prepared/1.0.0'
  assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
      'train': 10, 'validation': 1, 'test': 1}
  source = builder.as_data_source('train')
  assert source[0]['image'].shape[2] == 3 and source[0]['name'].decode().endswith('.png')


def test_the_split_seed_is_checked(prepared):
  collection = image_dataset.open_dataset(prepared)
  assert collection.source.resolution == RESOLUTION
  with pytest.raises(UserError, match='split with the seed 7.*--split_seed=123'):
    collection.split('train')


def test_on_beam_it_is_the_same(raw, prepared, tmp_path):
  pytest.importorskip('apache_beam')
  folder = prepare.prepare(
      raw, str(tmp_path / 'out'), config(split_seed=7), beam_runner='DirectRunner')
  assert pathlib.Path(folder, 'report.json').read_text() == (
      pathlib.Path(prepared, 'report.json').read_text())
  first, second = (image_dataset.open_dataset(path) for path in (prepared, folder))
  for name in image_dataset.SPLITS:
    assert first.split(name, seed=7).stems() == second.split(name, seed=7).stems()
  assert [first.source.read(i) for i in range(12)] == [second.source.read(i) for i in range(12)]


def test_wrong_requests_leave_nothing(raw, tmp_path):
  output = tmp_path / 'out'
  few = tmp_path / 'few'
  few.mkdir()
  for i in range(4):
    shutil.copy(pathlib.Path(raw, '00.png'), few / f'{i}.png')
  for data_dir, options, message in (
      (str(tmp_path / 'missing'), {}, 'does not exist'),
      (str(few), {}, '1 of 4 images can be used, too few'),
      (raw, {'resolution': 4}, 'resolution is 4'),
      (raw, {'transparency': 'black'}, "unknown transparency 'black'.*white, muted"),
      (raw, {'crops': ('head', 'foot')}, "unknown crop 'foot'.*top, shoulders, head, aside"),
      (raw, {'held_out': ('00', 'nobody')}, "'nobody' .* matches none of the 16 images"),
      (raw, {'leave_out': ('nobody/*',)}, "'nobody/.' .* matches none"),
      (raw, {'held_out': ('*',)}, '0 without held-out ones.*too few')):
    with pytest.raises(UserError, match=message):
      prepare.prepare(data_dir, str(output), PortraitsConfig('x', settings=Settings(**options)))
    assert not output.exists() and sorted(os.listdir(tmp_path)) == ['few']
  output.mkdir()
  (output / 'mine').touch()
  with pytest.raises(UserError, match='not an empty folder'):
    prepare.prepare(raw, str(output), config())
  assert os.listdir(output) == ['mine']


def test_command_line(raw, tmp_path):
  command = [sys.executable, '-m', 'input_pipeline.prepare', f'--data_dir={raw}',
             f'--output={tmp_path}/out', '--resolution=16']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('12 images (10 train, 1 validation, 1 test) in ')
  again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert again.returncode == 2 and again.stderr.startswith('error: ')
  assert len(again.stderr.splitlines()) == 1 and os.listdir(tmp_path) == ['out']


@pytest.fixture(scope='module')
def figures(tmp_path_factory):
  """Twelve figures without a background, one of them again in a mirror, and a list of two."""
  folder = tmp_path_factory.mktemp('figures')
  for i in range(12):
    head = (80 + 4 * (i % 3), 55 + 3 * (i % 4))
    draw_figure(head=head, radius=18 + i % 5, seed=i).save(folder / f'{i:02}.png')
  ImageOps.mirror(Image.open(folder / '03.png')).save(folder / 'mirrored.png')
  (folder / 'test.txt').write_text('# held out\n03\n05.png\n')
  (folder / 'credits.csv').write_text('file,license\n*,CC-BY-SA-4.0\n')
  return folder


def test_figures(figures, tmp_path):
  pytest.importorskip('imagehash')
  command = [
      sys.executable, '-m', 'input_pipeline.prepare', f'--data_dir={figures}',
      f'--output={tmp_path}/out', '--resolution=64', '--transparency=muted', '--crops=top,head',
      '--near_duplicates=40', f'--held_out={figures}/test.txt', f'--credits={figures}/credits.csv']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[1:] == [
      '21 crops of them, 18 for training',
      'left out: 1 near a held-out one, mirrored.png for one; report.json there names all']
  collection = image_dataset.open_dataset(f'{tmp_path}/out')
  assert collection.split('test').stems() == ['03@top', '05@top']
  train = collection.split('train').stems()
  assert len(train) == 18 and len({stem.partition('@')[0] for stem in train}) == 9
  assert not {'03@top', '03@head', '05@head', 'mirrored@top'} & set(train)
  for i in range(len(collection)):
    assert collection.load(i, 64)[:4, :4].max() < 210
  (report,) = tmp_path.glob('out/*/*/*/report.json')
  assert len(json.loads(report.read_text())['credits'][0]['names']) == 12


def test_figures_on_beam_are_the_same(figures, tmp_path):
  pytest.importorskip('apache_beam')
  options = config(transparency='muted', crops=('top', 'head'), held_out=('03', '05'),
                   leave_out=('mirrored',))
  folders = [prepare.prepare(str(figures), str(tmp_path / str(runner)), options, runner)
             for runner in (None, 'DirectRunner')]
  first, second = map(image_dataset.open_dataset, folders)
  assert len(first) == 21 and first.stems() == second.stems()
  assert [first.source.read(i) for i in range(21)] == [second.source.read(i) for i in range(21)]
  assert len({pathlib.Path(folder, 'report.json').read_text() for folder in folders}) == 1


def test_near_duplicates_need_a_library(raw, tmp_path, monkeypatch):
  monkeypatch.delitem(sys.modules, 'input_pipeline.preparing.near_duplicates', raising=False)
  monkeypatch.setitem(sys.modules, 'imagehash', None)
  with pytest.raises(UserError, match='ImageHash is not installed'):
    prepare.prepare(raw, str(tmp_path / 'out'), config(near_duplicates=10))
  assert not os.listdir(tmp_path)


def test_a_distance_that_any_two_pictures_have(raw, tmp_path):
  pytest.importorskip('imagehash')
  with pytest.raises(UserError, match='200 of 256 bits.*less than 128'):
    prepare.prepare(raw, str(tmp_path / 'out'), config(near_duplicates=200))


@pytest.fixture
def copy(prepared, tmp_path):
  shutil.copytree(prepared, tmp_path / 'copy')
  return tmp_path / 'copy'


def test_features_may_not_import(copy, tmp_path, monkeypatch):
  (tmp_path / 'evil_module.py').write_text("raise SystemExit('imported')")
  monkeypatch.syspath_prepend(str(tmp_path))
  features = (copy / 'features.json').read_text()
  name = 'tensorflow_datasets.core.features.text_feature.Text'
  for evil in ('evil_module.Text', 'tensorflow_datasets.core.features.x;evil_module.Text'):
    (copy / 'features.json').write_text(features.replace(name, evil))
    with pytest.raises(UserError, match='no feature of TFDS'):
      image_dataset.open_dataset(str(copy))


@pytest.mark.parametrize(
    ('file', 'change', 'message'),
    [
        ('features.json', lambda text: text[:40], 'features.json.*cannot be read'),
        ('dataset_info.json', lambda text: text[:40], 'not a data set that TFDS'),
        ('dataset_info.json', lambda text: text.replace('"{DATASET}', '"../{DATASET}'),
         'lies outside of it'),
        ('dataset_info.json', lambda text: text.replace('"10"', '"11"'), '12 records instead of'),
        ('dataset_info.json', lambda text: text.replace('"array_record"', '"tfrecord"'),
         'tfds convert_format'),
        ('features.json', lambda text: text.replace('image_feature.Image', 'text_feature.Text'),
         'no feature with images'),
    ])
def test_damaged_descriptions(copy, file, change, message):
  text = (copy / file).read_text()
  assert change(text) != text
  (copy / file).write_text(change(text))
  with pytest.raises(UserError, match=message):
    image_dataset.open_dataset(str(copy))


def test_damaged_shards(copy):
  shard = next(copy.glob('*-train.*'))
  data = shard.read_bytes()
  shard.write_bytes(data[:len(data) // 2])
  with pytest.raises(UserError, match='damaged or incomplete'):
    image_dataset.open_dataset(str(copy))
  shard.unlink()
  with pytest.raises(UserError, match='damaged or incomplete'):
    image_dataset.open_dataset(str(copy))


def test_a_damaged_record_is_an_unreadable_image(copy):
  shard = next(copy.glob('*-train.*'))
  data = bytearray(shard.read_bytes())
  data[data.index(b'\xff\xd8\xff') + 300] ^= 255  # in the first image
  shard.write_bytes(data)
  collection = image_dataset.open_dataset(str(copy))
  failed = 0
  for i in range(len(collection)):
    try:
      collection.load(i, RESOLUTION)
    except UserError as error:
      assert 'cannot be read' in str(error)
      failed += 1
  assert 1 <= failed < 12
