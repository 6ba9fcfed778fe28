"""The streams of batches: pure functions of (seed, index), on any number of processes."""

import collections
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
from PIL import Image
import pytest

from input_pipeline import image_dataset, pipeline
from input_pipeline import masks as masks_module
from input_pipeline.mask_files import random_masks
from mat_jax.errors import UserError
from tests.support.paths import ROOT

RESOLUTION = 32


@pytest.fixture(scope='module')
def files():
  return image_dataset.open_dataset('samples')


MASKS = random_masks(RESOLUTION, 'large')


def take(files, count, *, masks=MASKS, batch_size=4, seed=1, **options):
  """The first batches of a training stream."""
  stream = pipeline.training_batches(
      files, masks, resolution=RESOLUTION, batch_size=batch_size, seed=seed, **options)
  return list(itertools.islice(stream, count))


def evaluate(files, *, masks=MASKS, batch_size=4, **options):
  return list(pipeline.evaluation_batches(
      files, masks, resolution=RESOLUTION, batch_size=batch_size, **options))


def first(files, count):
  """The first images of a collection."""
  return image_dataset.ImageDataset(files.source, files.positions[:count])


def joined(batches, axis=0):
  """One dict of arrays, concatenated along the examples."""
  return {key: np.concatenate([batch[key] for batch in batches], axis) for key in batches[0]}


def assert_equal(first, second):
  assert first.keys() == second.keys()
  for key in first:
    np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def flat_images(folder, count):
  """Files of one gray level each: image i has the level 10 * i."""
  for i in range(count):
    Image.new('L', (40, 48), 10 * i).save(folder / f'{i:02}.png')
  return image_dataset.open_dataset(str(folder))


def levels(batches):
  """Which of the flat images the examples are."""
  values = joined(batches)['image'][:, 0, 0, 0]
  return np.rint((values + 1) * 12.75).astype(int).tolist()


def test_shapes_and_ranges(files):
  (batch,) = take(files, 1)
  assert batch.keys() == {'image', 'mask'}
  assert batch['image'].shape == (4, RESOLUTION, RESOLUTION, 3)
  assert batch['mask'].shape == (4, RESOLUTION, RESOLUTION, 1)
  assert batch['image'].dtype == batch['mask'].dtype == np.float32
  assert -1 <= batch['image'].min() < -0.5 and 0.3 < batch['image'].max() <= 1
  assert set(np.unique(batch['mask'])) == {0, 1}


def test_black_and_white_are_exact(tmp_path):
  for name, level in (('black', 0), ('white', 255)):
    Image.new('L', (16, 16), level).save(tmp_path / f'{name}.png')
  images = take(image_dataset.open_dataset(str(tmp_path)), 1, batch_size=2)[0]['image']
  assert set(np.unique(images)) == {-1, 1}


@pytest.mark.parametrize('process_count', [2, 4])
def test_processes_share_the_same_batches(files, process_count):
  expected = take(files, 5)
  parts = [
      take(files, 5, process_index=i, process_count=process_count) for i in range(process_count)]
  for k, batch in enumerate(expected):
    assert_equal(batch, joined([part[k] for part in parts]))


def test_threads_change_nothing(files):
  expected = take(files, 6, num_threads=1)
  for num_threads in (3, None):
    assert_equal(joined(expected), joined(take(files, 6, num_threads=num_threads)))


def test_stream_goes_on_where_it_stopped(files):
  expected = take(files, 12)
  for start in (1, 7, 11):
    assert_equal(joined(expected[start:]), joined(take(files, 12 - start, start_index=start)))


@pytest.mark.parametrize('process_count', [1, 2, 4])
def test_starting_late_takes_no_longer(files, process_count):
  def start(index):
    begin = time.monotonic()
    batch = joined([
        take(files, 1, start_index=index, process_index=i, process_count=process_count)[0]
        for i in range(process_count)])
    return time.monotonic() - begin, batch

  start(0)
  late, batch = start(10_000_000)
  # Reading one more batch for each of them would take hours.
  assert late < 5
  assert_equal(batch, start(10_000_000)[1])


@pytest.mark.parametrize('process_count', [1, 2, 4])
def test_every_image_once_per_epoch(tmp_path, process_count):
  files = flat_images(tmp_path, 7)
  parts = [take(files, 16, process_index=i, process_count=process_count)
           for i in range(process_count)]
  seen = levels([joined(batches) for batches in zip(*parts, strict=True)])[:63]
  epochs = [tuple(seen[i:i + 7]) for i in range(0, 63, 7)]
  assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
  assert len(set(epochs)) > 6


def test_orders_do_not_repeat_after_256_epochs(tmp_path):
  files = flat_images(tmp_path, 8)
  orders = [
      levels(take(files, 2, batch_size=8, start_index=start)) for start in (0, 256, 512)]
  assert orders[0] != orders[1] != orders[2]


def test_a_single_image_makes_a_stream(tmp_path):
  files = flat_images(tmp_path, 1)
  assert levels(take(files, 2)) == [0] * 8


def test_seeds_select_different_streams(files):
  first, second = take(files, 1, seed=1)[0], take(files, 1, seed=2)[0]
  assert (first['image'] != second['image']).any()
  assert (first['mask'] != second['mask']).any()


def test_masks_differ_between_examples_and_epochs(tmp_path):
  masks = joined(take(flat_images(tmp_path, 2), 20))['mask']
  assert len({mask.tobytes() for mask in masks}) == len(masks)


def test_mirror_flips_half_of_the_images(files):
  plain = joined(take(files, 25, mirror=False))['image']
  mirrored = joined(take(files, 25, mirror=True))['image']
  kept = (plain == mirrored).all((1, 2, 3))
  flipped = (plain[:, :, ::-1] == mirrored).all((1, 2, 3))
  assert (kept ^ flipped).all()
  assert 30 < flipped.sum() < 70


def test_random_crops_depend_on_the_index_alone(files):
  batches = take(files, 3, crop='random_crop', mirror=False)
  assert_equal(batches[2], take(files, 1, crop='random_crop', mirror=False, start_index=2)[0])
  assert (batches[0]['image'] != take(files, 1, mirror=False)[0]['image']).any()


def test_mask_options_reach_the_masks(files):
  source = random_masks(RESOLUTION, 'small', (0.1, 0.2))
  masks = joined(take(files, 5, masks=source))['mask']
  holes = 1 - masks.mean((1, 2, 3))
  assert (holes > 0.1).all() and (holes < 0.2).all()


def many_flat_images(folder, count, broken):
  """As `flat_images`, with levels 0 to 249 in turn and some files cut off."""
  for i in range(count):
    Image.new('L', (12, 12), i % 250).save(folder / f'{i:04}.png')
  for i in broken:
    path = folder / f'{i:04}.png'
    path.write_bytes(path.read_bytes()[:30])
  return image_dataset.open_dataset(str(folder))


def test_unreadable_images_are_skipped_counted_and_named_once(tmp_path, caplog):
  files = many_flat_images(tmp_path, 200, broken=[50, 51])
  stream = pipeline.training_batches(files, MASKS, resolution=RESOLUTION, batch_size=40, seed=3)
  epoch = joined(list(itertools.islice(stream, 5)))
  seen = collections.Counter(np.rint((epoch['image'][:, 0, 0, 0] + 1) * 127.5).astype(int))
  # The next image that can be read stands in for both.
  assert seen[50] == seen[51] == 0 and seen[52] == 3 and sum(seen.values()) == 200
  assert stream.unreadable.keys() == {50, 51}
  again = joined(list(itertools.islice(stream, 5)))
  assert len(again['image']) == 200 and len(stream.unreadable) == 2
  lines = [record.getMessage() for record in caplog.records]
  assert [sum(f'{i:04}.png' in line for line in lines) for i in (50, 51, 52)] == [1, 1, 0]


@pytest.mark.parametrize('process_count', [2, 4])
def test_stand_ins_are_the_same_on_any_number_of_processes(tmp_path, process_count):
  files = many_flat_images(tmp_path, 200, broken=[50, 51])
  expected = take(files, 3, batch_size=80)
  parts = [take(files, 3, batch_size=80, process_index=i, process_count=process_count)
           for i in range(process_count)]
  for k, batch in enumerate(expected):
    assert_equal(batch, joined([part[k] for part in parts]))


def test_more_than_one_percent_unreadable_fails(tmp_path):
  files = many_flat_images(tmp_path, 200, broken=[10, 20, 30])
  with pytest.raises(UserError, match='3 of 200 images cannot be read, more than 1%.*00.0.png'):
    take(files, 5, batch_size=40)
  with pytest.raises(UserError, match='3 of 200 images cannot be read'):
    evaluate(files)


def test_unreadable_image_of_few_is_named(tmp_path):
  files = flat_images(tmp_path, 6)
  (tmp_path / '03.png').write_bytes(b'broken')
  with pytest.raises(UserError, match='1 of 6 images.*03.png.*cannot be read'):
    take(files, 6)
  stream = pipeline.evaluation_batches(files, MASKS, resolution=RESOLUTION, batch_size=2)
  assert levels([next(stream)]) == [0, 1]
  with pytest.raises(UserError, match='03.png.*cannot be read'):
    next(stream)


def test_evaluation_marks_what_it_cannot_read(tmp_path):
  files = many_flat_images(tmp_path, 110, broken=[7])
  batch = joined(evaluate(files, masks_per_image=2, batch_size=50))
  assert len(batch['valid']) == 250
  left_out = np.flatnonzero(~batch['valid'])
  assert left_out.tolist() == [14, 15, *range(220, 250)]
  assert batch['image_index'][left_out].tolist() == [7, 7] + [-1] * 30
  assert (batch['image'][left_out] == 0).all()


def test_a_mask_that_cannot_be_drawn_ends_the_stream(files, monkeypatch):
  monkeypatch.setattr(masks_module, '_MAX_ATTEMPTS', 100)
  masks = random_masks(RESOLUTION, 'small', (0.9999, 1))
  with pytest.raises(UserError, match='widen the range'):
    take(files, 1, masks=masks, batch_size=1)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'batch_size': 4, 'process_count': 3}, 'cannot be shared by 3'),
        ({'batch_size': 0}, 'batch of 0'),
        ({'process_index': 2, 'process_count': 2}, 'no process 2'),
        ({'crop': 'left'}, 'crop'),
        ({'seed': -1}, 'seed is -1'),
    ])
@pytest.mark.parametrize('run', [take, evaluate])
def test_wrong_arguments(files, run, options, message):
  count = (1,) if run is take else ()
  with pytest.raises(UserError, match=message):
    run(files, *count, **options)


def test_no_images(files):
  with pytest.raises(UserError, match='no images'):
    take(first(files, 0), 1)


def test_negative_start(files):
  with pytest.raises(UserError, match='start_index is -1'):
    take(files, 1, start_index=-1)


def test_evaluation_visits_every_pair_once_and_pads(files):
  batches = evaluate(first(files, 5), masks_per_image=3)
  assert [len(batch['image']) for batch in batches] == [4] * 4
  batch = joined(batches)
  assert batch['image_index'].dtype == batch['mask_index'].dtype == np.int32
  assert batch['valid'].dtype == bool
  assert batch['valid'].tolist() == [True] * 15 + [False]
  pairs = list(zip(batch['image_index'].tolist(), batch['mask_index'].tolist(), strict=True))
  assert pairs == [*itertools.product(range(5), range(3)), (-1, -1)]
  assert (batch['image'][-1] == 0).all() and (batch['mask'][-1] == 1).all()
  assert len({mask.tobytes() for mask in batch['mask']}) == 16
  assert (batch['image'][0] == batch['image'][2]).all()


def test_evaluation_does_not_depend_on_batch_size_or_number_of_masks(files):
  expected = joined(evaluate(first(files, 6), masks_per_image=2, batch_size=12))
  assert_equal(expected, joined(evaluate(first(files, 6), masks_per_image=2, batch_size=3)))
  single = joined(evaluate(first(files, 6), batch_size=6))
  np.testing.assert_array_equal(single['mask'], expected['mask'][::2])
  other = joined(evaluate(first(files, 6), batch_size=6, seed=1))
  assert (single['mask'] != other['mask']).any()
  np.testing.assert_array_equal(single['image'], other['image'])


@pytest.mark.parametrize('process_count', [2, 4])
def test_evaluation_on_processes(files, process_count):
  expected = evaluate(first(files, 5), batch_size=8, masks_per_image=2)
  parts = [
      evaluate(
          first(files, 5), batch_size=8, masks_per_image=2, process_index=i,
          process_count=process_count)
      for i in range(process_count)
  ]
  assert {len(part) for part in parts} == {len(expected)}
  for k, batch in enumerate(expected):
    assert_equal(batch, joined([part[k] for part in parts]))


def test_evaluation_needs_a_mask(files):
  with pytest.raises(UserError, match='masks_per_image is 0'):
    evaluate(files, masks_per_image=0)


def test_images_are_the_squares_of_their_files(files):
  batch = joined(evaluate(first(files, 2), batch_size=2))
  square = files.load(1, RESOLUTION)
  np.testing.assert_allclose(batch['image'][1], square / 127.5 - 1, atol=1e-6)


def test_shuffled_positions_are_uniform(tmp_path):
  files = flat_images(tmp_path, 5)
  seen = np.array(levels(take(files, 60, batch_size=10))).reshape(-1, 5)
  counts = collections.Counter(seen[:, 0].tolist())
  assert len(seen) == 120 and all(8 < counts[i] < 45 for i in range(5))


def test_streams_leave_no_threads_and_memory_behind(files):
  take(files, 1)
  gc.collect()
  before, parts = python_threads(), []
  for _ in range(5):
    part = image_dataset.ImageDataset(files.source, files.positions)
    parts.append(weakref.ref(part))
    take(part, 2)
    evaluate(part)
    del part
  gc.collect()
  for _ in range(50):
    if not python_threads() - before and not any(part() for part in parts):
      return
    time.sleep(0.1)
    gc.collect()
  raise AssertionError(f'{python_threads() - before} are left')


def python_threads():
  """Those that Python started; TensorFlow's own count as soon as they have called Python."""
  return {thread for thread in threading.enumerate()
          if not isinstance(thread, threading._DummyThread)}


def test_batches_are_not_overwritten_while_they_are_held(files):
  stream = pipeline.training_batches(files, MASKS, resolution=RESOLUTION, batch_size=4, seed=1)
  held = [next(stream) for _ in range(6)]
  copies = [{key: value.copy() for key, value in batch.items()} for batch in held]
  parts = [batch['image'][1:2, ..., 0] for batch in held]
  expected = [part.copy() for part in parts]
  del held[3:]
  for _ in range(40):
    next(stream)
  for batch, copy in zip(held, copies, strict=False):
    assert_equal(batch, copy)
  for part, copy in zip(parts, expected, strict=True):
    np.testing.assert_array_equal(part, copy)


def test_program_ends_while_streams_are_being_filled():
  program = """
from input_pipeline import mask_files, pipeline
from input_pipeline import image_dataset
files = image_dataset.open_dataset('samples')
masks = mask_files.random_masks(256, 'large')
streams = [pipeline.training_batches(files, masks, resolution=256, batch_size=8, seed=i)
           for i in range(3)]
print([len(next(stream)['image']) for stream in streams])
"""
  root = ROOT
  result = subprocess.run(
      [sys.executable, '-c', program], cwd=root, timeout=120, stdout=subprocess.PIPE, check=True)
  assert result.stdout.split() == [b'[8,', b'8,', b'8]']
