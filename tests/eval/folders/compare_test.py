"""Comparing folders of images: the numbers, the warnings, and the command line."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from eval.folders import compare
from eval.folders.compare import Options
from eval.folders.folder_metrics import features_of
from eval.folders.image_folders import read_shape
from eval.metrics import distances, feature_networks, image_metrics, measuring
from eval.results import markdown
from eval.results.pairs import read_csv
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets
from tests.support.paths import ROOT

# The last one has another size.
SHAPES = {'a': (32, 32), 'b': (32, 32), 'c': (32, 32), 'd': (32, 40)}
HOLES = {'a': 0.125, 'b': 0.25, 'c': 0.5, 'd': 0.75}


def save(folder, name, array):
  folder.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(folder / name)


def hole_of(name):
  """bool [H, W, 1]; the hole is at the top."""
  height, width = SHAPES[name]
  return np.arange(height)[:, None, None] < HOLES[name] * height * np.ones((1, width, 1))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Folders photos, masks, and the results of two systems, good and bad."""
  path, rng = tmp_path_factory.mktemp('folders'), np.random.default_rng(0)
  for name, shape in SHAPES.items():
    photo, noise = rng.integers(0, 256, (2, *shape, 3)).astype(np.uint8)
    save(path / 'photos', f'{name}.png', photo)
    save(path / 'masks', f'{name}.png', (~hole_of(name)[..., 0] * 255).astype(np.uint8))
    save(path / 'bad', f'{name}.png', np.where(hole_of(name), noise, photo))
    # The first is perfect.
    near = photo if name == 'a' else photo // 2 + noise // 2
    save(path / 'good', f'{name}.bmp', np.where(hole_of(name), near, photo))
  return path


def options(root, **changes):
  """Options without networks; folders are relative to the test's."""
  values = {'real': 'photos', 'fake': 'good'} | changes
  paths = {name: str(root / value) if name in ('real', 'fake', 'masks', 'baseline', 'others')
           else value for name, value in values.items()}
  return Options(**{'features': '', 'lpips': '', 'batch_size': 2} | paths)


def load(root, folder, name):
  (path,) = (root / folder).glob(f'{name}.*')
  return np.asarray(Image.open(path))


@pytest.fixture(scope='module')
def compared(root):
  return compare.compare(options(root, masks='masks', baseline='bad'))


def test_in_a_bucket_it_is_the_same(root, compared, bucket, bucket_copies):
  address, _ = bucket
  folders = {'real': 'photos', 'fake': 'good', 'masks': 'masks', 'baseline': 'bad'}
  for folder in folders.values():
    buckets.upload(str(root / folder), f'{address}/{folder}', buckets.files_of(str(root / folder)))
  found, pairs = compare.compare(Options(
      **{name: f'{address}/{folder}' for name, folder in folders.items()}, features='', lpips='',
      batch_size=2))
  assert found.mask_sets == compared[0].mask_sets and found.bins == compared[0].bins
  assert found.settings['real'] == f'{address}/photos'
  compare.make_folder(f'{address}/out')
  compare.write(found, pairs, f'{address}/out')
  assert buckets.listed(f'{address}/out') == ['metrics.json', 'metrics.md', 'per_image.csv']


def test_pairs_have_the_values_of_the_metrics(root, compared):
  _, pairs = compared
  assert pairs.image.tolist() == list(SHAPES) and pairs.mask.tolist() == [0] * 4
  np.testing.assert_allclose(pairs.hole_ratio, list(HOLES.values()))
  for system in ('good', 'bad'):
    for metric in ('psnr', 'ssim', 'l1'):
      function = getattr(image_metrics, metric)
      images = [(load(root, 'photos', name), load(root, system, name)) for name in SHAPES]
      np.testing.assert_allclose(
          pairs.metrics[system][metric], [function(*pair) for pair in images], rtol=1e-6)
      np.testing.assert_allclose(
          pairs.metrics[system][f'{metric}_hole'],
          [function(*pair, hole_of(name)) for pair, name in zip(images, SHAPES, strict=True)],
          rtol=1e-6)


def test_record(compared):
  record, pairs = compared
  group = record.mask_sets['files']
  good, bad = pairs.metrics['good']['psnr_hole'], pairs.metrics['bad']['psnr_hole']
  summary = group.metrics['good']['psnr_hole']
  assert np.isinf(good[0]) and (summary.infinite, summary.n) == (1, 3)
  np.testing.assert_allclose(summary.mean, good[1:].mean(), rtol=1e-6)
  difference = group.differences['good - bad']['psnr_hole']
  np.testing.assert_allclose(difference.mean, (good - bad)[1:].mean(), rtol=1e-6)
  assert difference.low > 0 and group.distances == {}
  assert {name: group.images for name, group in record.bins.items()} == {
      '0-20 %': 1, '20-40 %': 1, '40-60 %': 1, 'above 60 %': 1}
  assert not record.notes


@pytest.fixture(scope='module')
def several(root, tmp_path_factory):
  """Two results of an image, one of another, in folders whose names mean something elsewhere."""
  path = tmp_path_factory.mktemp('several')
  for folder, system in (('real', 'good'), ('hole', 'bad')):
    for result, name in (('a_3', 'a'), ('a_4', 'b'), ('b', 'd')):
      save(path / folder, f'{result}.png', load(root, system, name))
  for image, name in (('a', 'a'), ('b', 'd')):
    save(path / 'photos', f'{image}.png', load(root, 'photos', name))
  return path


def test_without_masks_and_with_several_results(root, several):
  record, pairs = compare.compare(options(several, fake='real', baseline='hole'))
  assert pairs.image.tolist() == ['a', 'a', 'b'] and pairs.mask.tolist() == [0, 1, 0]
  assert pairs.image_index.tolist() == [0, 0, 1] and np.isnan(pairs.hole_ratio).all()
  assert set(pairs.metrics['real']) == {'psnr', 'ssim', 'l1'} and not record.bins
  expected = [image_metrics.l1(load(root, 'photos', photo), load(root, 'bad', result))
              for photo, result in (('a', 'a'), ('a', 'b'), ('d', 'd'))]
  np.testing.assert_allclose(pairs.metrics['hole']['l1'], expected, rtol=1e-6)
  np.testing.assert_allclose(record.mask_sets['none'].metrics['hole']['l1'].mean,
                             (np.mean(expected[:2]) + expected[2]) / 2, rtol=1e-6)
  (note,) = record.notes
  assert '1 to 2 results each' in note
  assert 'Without masks: 2 images, 3 pairs' in markdown.markdown(record)


def test_changed_pixels_outside_of_the_hole_are_told(root, tmp_path):
  for name in 'abc':
    changed = load(root, 'bad', name).copy()
    if name != 'c':
      changed[-1, :16] ^= 4  # by 4 levels, in a part of a row
    save(tmp_path / 'changed', f'{name}.png', changed)
    save(tmp_path / 'photos', f'{name}.png', load(root, 'photos', name))
  found, _ = compare.compare(Options(
      str(tmp_path / 'photos'), str(tmp_path / 'changed'), str(root / 'masks'), features='',
      lpips=''))
  (note,) = found.notes
  kept = [round(32 * (1 - HOLES[name])) for name in 'ab']
  assert 'changed: kept pixels differ from the real image in 2 of 3 results' in note
  assert f'by {np.mean([4 * 16 / (rows * 32) for rows in kept]):.2g} of 255 levels' in note


def test_inverted_masks_are_told(root, tmp_path):
  for name in SHAPES:
    save(tmp_path, f'{name}.png', (hole_of(name)[..., 0] * 255).astype(np.uint8))
  record, _ = compare.compare(Options(
      str(root / 'photos'), str(root / 'bad'), str(tmp_path), features='', lpips=''))
  assert sum('as if the masks were inverted' in note for note in record.notes) == 1


def test_grey_masks_are_told(root, tmp_path):
  for name in SHAPES:
    mask = np.where(hole_of(name)[..., 0], 0, 255).astype(np.uint8)
    mask[-1, :8] = 255 if name == 'a' else 254
    save(tmp_path, f'{name}.png', mask)
  record, _ = compare.compare(Options(
      str(root / 'photos'), str(root / 'bad'), str(tmp_path), features='', lpips=''))
  (note,) = record.notes
  assert note.startswith('3 of 4 masks have pixels that are neither black nor white, 8 each')


def test_one_image(root, tmp_path):
  for folder in ('photos', 'bad', 'masks'):
    save(tmp_path / folder, 'b.png', load(root, folder, 'b'))
  record, _ = compare.compare(options(
      tmp_path, fake='bad', masks='masks', features='vgg16', lpips='alex'))
  group = record.mask_sets['files']
  assert {summary.n for summary in group.metrics['bad'].values()} == {1}
  assert group.metrics['bad']['lpips_alex'].mean > 0
  assert group.distances['bad'] and all(
      distance.value is None and 'at least 2 real images' in distance.note
      for distance in group.distances['bad'].values())
  text = markdown.markdown(record)
  assert 'one image, no interval' in text and 'not measurable' in text


@pytest.fixture(scope='module')
def vgg16():
  return measuring.Models({}, feature_networks.load('vgg16', {})[0])


def test_features_keep_the_order_of_images_of_several_sizes(root, vgg16):
  # The order of the sizes is not that of the images.
  files = [str(root / 'photos' / f'{name}.png') for name in 'adbc']
  found = features_of(files, [SHAPES[name] for name in 'adbc'], vgg16, 2, 'test')['vgg16']
  expected = [feature_networks.extract('vgg16', vgg16.features['vgg16'], load(root, 'photos', name)[None])
              for name in 'ad']
  assert found.shape == (4, 512)
  np.testing.assert_allclose(found[:2], np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_distances(root, several, vgg16):
  """Of two images with three results, and three others."""
  for name in 'bcd':
    save(several / 'others', f'{name}.png', load(root, 'bad', name))
  record, _ = compare.compare(options(several, fake='real', others='others', features='vgg16'))
  found = record.mask_sets['none'].distances['real']

  def of(*files):
    paths = [str(several / file) for file in files]
    return features_of(paths, [read_shape(path) for path in paths], vgg16, 2, 'test')['vgg16']

  real, fake = of('photos/a.png', 'photos/b.png'), of('real/a_3.png', 'real/a_4.png', 'real/b.png')
  expected = distances.measure(real, fake, np.array([0, 0, 1]), 'vgg16')
  assert set(found) == set(expected)
  for name in ('kd_vgg16', 'fd_vgg16'):
    np.testing.assert_allclose(found[name].value, expected[name].value, rtol=1e-3)
    assert (found[name].n_real, found[name].n_fake, found[name].dimension) == (2, 3, 512)
  # One half against the other would be one pair.
  assert found['u_ids_vgg16'].value is None and 'at 3 pairs' in found['u_ids_vgg16'].note
  assert any('2 sizes, 32 x 32 to 40 x 32' in note for note in record.notes)


def test_other_images_are_not_the_real_ones(root):
  with pytest.raises(UserError, match='photos. holds some of the real images themselves'):
    compare.compare(options(root, others='photos'))


@pytest.mark.parametrize('folder', ['fake', 'masks', 'others'])
def test_an_unreadable_file_is_named(root, tmp_path, folder):
  for name in SHAPES:
    save(tmp_path, f'{name}.png', load(root, 'photos', name))
  (tmp_path / 'c.png').write_bytes(b'no image')
  with pytest.raises(UserError, match='c.png. cannot be read'):
    compare.compare(options(root, **{folder: tmp_path}))


def test_images_too_small_for_ssim(tmp_path):
  save(tmp_path / 'photos', 'a.png', np.zeros((10, 20, 3), np.uint8))
  with pytest.raises(UserError, match='SSIM needs images of at least 11x11'):
    compare.compare(options(tmp_path, fake='photos'))


def test_equal_and_constant_images(tmp_path):
  for name in 'ab':
    save(tmp_path / 'photos', f'{name}.png', np.full((32, 32, 3), 90, np.uint8))
  record, _ = compare.compare(options(tmp_path, fake='photos', features='vgg16'))
  group = record.mask_sets['none']
  psnr = group.metrics['photos']['psnr']
  assert (psnr.n, psnr.infinite) == (0, 2) and group.metrics['photos']['ssim'].mean == 1
  for distance in group.distances['photos'].values():
    assert 'All real images have the same features' in distance.note
    assert distance.value is None or abs(distance.value) < 1e-6


def test_folders_have_different_names():
  assert compare.system_names(['x/a', 'y/b/']) == ['a', 'b']
  assert compare.system_names(['x/results', 'y/results']) == ['x/results', 'y/results']
  assert compare.system_names(['x/a/results', 'x/b/results']) == ['a/results', 'b/results']
  assert compare.system_names(['results']) == ['results']
  with pytest.raises(UserError, match='compared with itself'):
    compare.system_names(['x/../results', 'results'])


def test_files(compared, tmp_path):
  compare.write(*compared, str(tmp_path))
  assert sorted(os.listdir(tmp_path)) == ['metrics.json', 'metrics.md', 'per_image.csv']
  content = json.loads((tmp_path / 'metrics.json').read_text())
  assert content['mask_sets']['files']['metrics']['good']['psnr']['infinite'] == 1
  assert '1 infinite' in (tmp_path / 'metrics.md').read_text()
  with open(tmp_path / 'per_image.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert [(row['system'], row['image']) for row in rows] == [
      (system, name) for system in ('good', 'bad') for name in SHAPES]


def test_names_that_are_no_utf8(root, tmp_path):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'b\udcff.png').write_bytes((root / 'photos' / 'b.png').read_bytes())
  (tmp_path / 'photos').rename(tmp_path / 'photos\udcff')
  record, pairs = compare.compare(options(tmp_path, real='photos\udcff', fake='photos\udcff'))
  compare.write(record, pairs, str(tmp_path / 'out'))
  assert list(pairs.metrics) == ['photos\ufffd']
  assert read_csv(str(tmp_path / 'out' / 'per_image.csv')).image.tolist() == ['b\udcff']


@pytest.fixture(scope='module')
def outcomes(root, tmp_path_factory):
  """{case: (output, errors, exit code)} of command lines, run side by side, and the folder."""
  folder = tmp_path_factory.mktemp('outputs')
  arguments = {
      'works': [f'--fake={root}/good', f'--masks={root}/masks', f'--output={folder}/made/here'],
      'missing': [f'--fake={root}/nothing'],
      'network': [f'--fake={root}/good', '--features=vgg16,vgg17'],
      'output': [f'--fake={root}/good', f'--output={root}/photos/a.png'],
  }
  running = {name: subprocess.Popen(
      [sys.executable, '-m', 'eval.folders', f'--real={root}/photos', '--features=', '--lpips=',
       *own], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
      for name, own in arguments.items()}
  return {name: (*process.communicate(timeout=300), process.returncode)
          for name, process in running.items()}, folder


def test_the_command_prints_and_writes_the_tables(outcomes):
  results, folder = outcomes
  output, errors, code = results['works']
  assert code == 0, errors
  assert output == (folder / 'made' / 'here' / 'metrics.md').read_text()
  assert '| good |' in output and 'PSNR hole, dB' in output and '4 images, 4 pairs' in output


@pytest.mark.parametrize(
    ('name', 'message'),
    [('missing', 'nothing'), ('network', "'vgg17'"), ('output', 'a.png')])
def test_a_mistake_is_one_sentence_and_exit_code_2(outcomes, name, message):
  output, errors, code = outcomes[0][name]
  assert code == 2 and not output and 'Traceback' not in errors
  (line,) = [line for line in errors.splitlines() if line.startswith('error: ')]
  assert message in line
