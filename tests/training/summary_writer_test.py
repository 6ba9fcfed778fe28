import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

from absl import logging
import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2
import tensorflow as tf

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, disk, staging
from mat_jax.training import summary_writer
from mat_jax.training.summary_writer import SummaryWriter

_PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3)
# Writes some steps and is killed.
_RUN = '''
import os, signal, sys
from mat_jax.training.summary_writer import SummaryWriter
workdir, resume, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
writer = SummaryWriter(workdir, resume or None)
for step in range(resume + 1, stop + 1):
  writer.write_scalars(step, {'loss': step / 2})
  writer.write_row(step, {'loss': step / 2})
os.kill(os.getpid(), signal.SIGKILL)
'''


def _write(writer, steps):
  for step in steps:
    writer.write_scalars(step, {'loss/g': step / 2, 'loss/d': float('nan')})
    writer.write_row(step, {'loss': step / 2})
    if step % 5 == 0:
      writer.write_images(step, {'samples': _PICTURE})


def _event_files(workdir):
  return sorted(str(path) for path in workdir.glob('events*'))


def _read(workdir):
  """Tag -> steps, in the order of the files."""
  steps = {}
  for path in _event_files(workdir):
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      event = event_pb2.Event.FromString(record)
      for value in event.summary.value:
        steps.setdefault(value.tag, []).append(event.step)
  return steps


def _rows(workdir):
  return [json.loads(line) for line in (workdir / 'stats.jsonl').read_text().splitlines()]


@pytest.fixture
def logged(monkeypatch):
  """What was logged, as (level, text)."""
  lines = []
  for level in ('info', 'warning'):
    monkeypatch.setattr(logging, level, lambda text, *args, level=level: lines.append(
        (level, text % args)))
  return lines


@pytest.fixture
def small_files():
  """Sets the size that a file can have, as if the disk were full."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield lambda size: resource.setrlimit(
      resource.RLIMIT_FSIZE, (limits[0] if size is None else size, limits[1]))
  resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_tensorboard_reads_what_was_written(tmp_path):
  writer = SummaryWriter(str(tmp_path), None)
  writer.write_scalars(3, {'loss': 0.5, 'rate': np.float32(2)})
  writer.write_images(3, {'samples': _PICTURE})
  writer.write_texts(0, {'config': '    seed: 1'})
  writer.close()
  board = EventAccumulator(str(tmp_path)).Reload()
  assert set(board.Tags()['tensors']) == {'loss', 'rate', 'samples', 'config'}
  event, = board.Tensors('loss')
  assert (event.step, tf.make_ndarray(event.tensor_proto)) == (3, 0.5)
  width, height, png = tf.make_ndarray(board.Tensors('samples')[0].tensor_proto)
  assert (width, height) == (b'3', b'2')
  np.testing.assert_array_equal(tf.io.decode_png(png), _PICTURE[0])
  assert tf.make_ndarray(board.Tensors('config')[0].tensor_proto) == b'    seed: 1'
  plugins = {tag: board.SummaryMetadata(tag).plugin_data.plugin_name
             for tag in board.Tags()['tensors']}
  assert plugins == {'loss': 'scalars', 'rate': 'scalars', 'samples': 'images', 'config': 'text'}


def test_a_row_is_a_line_of_json(tmp_path):
  writer = SummaryWriter(str(tmp_path), None)
  writer.write_row(7, {'loss': np.float32(0.5), 'r1': float('nan'), 'fid': float('inf'),
                        'images': np.int64(28), 'name': 'ü', 'none': None})
  line, = (tmp_path / 'stats.jsonl').read_text().splitlines()
  assert list(json.loads(line).items()) == [
      ('step', 7), ('loss', 0.5), ('r1', None), ('fid', None), ('images', 28), ('name', 'ü'),
      ('none', None)]


def test_what_is_written_is_there_at_once(tmp_path):
  result = subprocess.run([sys.executable, '-c', _RUN, str(tmp_path), '0', '4'], check=False)
  assert result.returncode == -signal.SIGKILL
  assert _read(tmp_path) == {'loss': [1, 2, 3, 4]}
  assert [row['step'] for row in _rows(tmp_path)] == [1, 2, 3, 4]
  _write(SummaryWriter(str(tmp_path), 3), [4, 5])
  assert [row['step'] for row in _rows(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_resumed_run_leaves_the_records_of_one_without_interruption(tmp_path):
  whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
  _write(SummaryWriter(str(whole), None), range(1, 26))
  for resume, stop in ((None, 3), (None, 12), (10, 13), (10, 21), (20, 25)):
    _write(SummaryWriter(str(resumed), resume), range((resume or 0) + 1, stop + 1))
  assert _read(resumed) == _read(whole)
  assert (resumed / 'stats.jsonl').read_bytes() == (whole / 'stats.jsonl').read_bytes()


def test_a_tensorboard_that_is_open_shows_no_step_twice(tmp_path):
  _write(SummaryWriter(str(tmp_path), None), range(1, 9))
  board = EventAccumulator(str(tmp_path)).Reload()
  _write(SummaryWriter(str(tmp_path), 5), range(6, 12))
  board.Reload()
  assert [event.step for event in board.Tensors('loss/g')] == list(range(1, 12))


def _identity(path):
  """What tells a file that was written again."""
  found = os.stat(path)
  return found.st_ino, found.st_size, found.st_mtime_ns


def test_a_file_without_later_steps_is_not_touched(tmp_path, logged):
  _write(SummaryWriter(str(tmp_path), None), range(1, 6))
  _write(SummaryWriter(str(tmp_path), 5), range(6, 11))
  (tmp_path / 'eval').mkdir()
  (tmp_path / 'eval' / 'events.out.tfevents.1').write_bytes(b'of an evaluation')
  paths = [*_event_files(tmp_path), tmp_path / 'stats.jsonl',
           tmp_path / 'eval' / 'events.out.tfevents.1']
  before = [_identity(path) for path in paths]
  SummaryWriter(str(tmp_path), 10)
  assert [_identity(path) for path in paths] == before
  assert not logged
  SummaryWriter(str(tmp_path), 7)
  assert [_identity(path) == old for path, old in zip(paths, before, strict=True)] == [
      True, False, False, True]
  assert logged == [('info', 'Removed 4 events of TensorBoard and 3 rows of stats.jsonl: they '
                     'are newer than the checkpoint of step 7.')]


def test_a_file_of_later_steps_alone_is_removed(tmp_path):
  _write(SummaryWriter(str(tmp_path), None), range(1, 6))
  first, = _event_files(tmp_path)
  _write(SummaryWriter(str(tmp_path), 5), range(6, 8))
  assert len(_event_files(tmp_path)) == 2
  SummaryWriter(str(tmp_path), 5)
  assert _event_files(tmp_path) == [first]
  SummaryWriter(str(tmp_path), None)
  assert sorted(os.listdir(tmp_path)) == ['stats.jsonl']
  assert not _rows(tmp_path)


@pytest.mark.parametrize('lost', [1, 20, 300])
def test_what_a_kill_cut_short_is_removed(tmp_path, lost):
  _write(SummaryWriter(str(tmp_path), None), range(1, 5))
  path, = _event_files(tmp_path)
  for name in (path, tmp_path / 'stats.jsonl'):
    data = open(name, 'rb').read()
    with open(name, 'wb') as file:
      file.write(data[:-min(lost, len(data) // 2)])
  whole = (tmp_path / 'stats.jsonl').read_bytes().count(b'\n')
  complete = _complete_steps(path)
  _write(SummaryWriter(str(tmp_path), 4), [5])
  assert _read(tmp_path)['loss/g'] == [*complete, 5]
  assert [row['step'] for row in _rows(tmp_path)] == [*range(1, whole + 1), 5]


def _complete_steps(path):
  steps = []
  with pytest.raises(tf.errors.DataLossError):
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      event = event_pb2.Event.FromString(record)
      steps += [event.step] if event.summary.value else []
  return steps


@pytest.mark.parametrize('content', [b'not a record', bytes(100)])
def test_what_is_no_event_file_stays(tmp_path, logged, content):
  path = tmp_path / 'events.out.tfevents.notes'
  path.write_bytes(content)
  SummaryWriter(str(tmp_path), None)
  assert path.read_bytes() == content
  assert logged == [('warning', f'{path} is no event file; it stays as it is.')]


def test_records_of_something_else_stay(tmp_path, logged):
  path = tmp_path / 'events.out.tfevents.examples'
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(b'\xff\xff\xff')
  before = path.read_bytes()
  SummaryWriter(str(tmp_path), None)
  assert path.read_bytes() == before
  assert [level for level, _ in logged] == ['warning']


def test_lines_that_are_no_rows_are_removed(tmp_path):
  good = b'{"step": 1}\n'
  (tmp_path / 'stats.jsonl').write_bytes(
      good + b'\0\0\0\n' + b'[1]\n' + b'{"loss": 1}\n' + b'{"step": "2"}\n' + b'{"step": 2}')
  SummaryWriter(str(tmp_path), 9)
  assert (tmp_path / 'stats.jsonl').read_bytes() == good


def test_a_full_disk_does_not_end_the_run(tmp_path, logged, small_files):
  writer = SummaryWriter(str(tmp_path), None)
  _write(writer, range(1, 4))
  sizes = [os.path.getsize(path) for path in (*_event_files(tmp_path), tmp_path / 'stats.jsonl')]
  small_files(min(sizes) + 5)
  noise = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
  for step in (4, 5):
    _write(writer, [step])
    writer.write_images(step, {'samples': noise})
    writer.flush()
  small_files(None)
  _write(writer, [6])
  assert [level for level, _ in logged] == ['warning'] * 3
  assert all(f'The {kind} of the run' in text and 'large' in text for kind, (_, text) in zip(
      ('scalars', 'rows', 'images'), logged, strict=True))
  assert _read(tmp_path) == {'loss/g': [1, 2, 3, 6], 'loss/d': [1, 2, 3, 6]}
  assert [row['step'] for row in _rows(tmp_path)] == [1, 2, 3, 6]


def test_a_folder_that_is_gone_does_not_end_the_run(tmp_path, logged):
  writer = SummaryWriter(str(tmp_path / 'run'), None)
  (tmp_path / 'run').rmdir()
  _write(writer, range(1, 6))
  writer.close()
  assert [level for level, _ in logged] == ['warning'] * 3
  (tmp_path / 'run').mkdir()
  _write(writer, range(6, 8))
  assert _read(tmp_path / 'run')['loss/g'] == [6, 7]


def test_records_that_cannot_be_put_back_are_named(tmp_path, small_files):
  _write(SummaryWriter(str(tmp_path), None), range(1, 6))
  before = _read(tmp_path)
  small_files(50)
  with pytest.raises(UserError, match=f'{tmp_path}/events.* cannot be put back'):
    SummaryWriter(str(tmp_path), 4)
  small_files(None)
  assert _read(tmp_path) == before
  assert len(os.listdir(tmp_path)) == 2
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='cannot be put back'):
    SummaryWriter(str(tmp_path / 'file' / 'run'), None)


@pytest.mark.parametrize('name', ['events', 'stats'])
def test_a_record_that_cannot_be_read_for_a_moment_is_not_taken_for_empty(
    tmp_path, monkeypatch, name):
  _write(SummaryWriter(str(tmp_path), None), range(1, 6))
  (path,) = tmp_path.glob(f'{name}*')
  whole = path.rename(tmp_path / 'elsewhere')
  path.symlink_to(path)  # opening it is an error of the system, whoever asks
  with pytest.raises(UserError, match=f'{path} cannot be put .*: Too many levels of symb'):
    SummaryWriter(str(tmp_path), 4)

  def repair(seconds):
    if path.is_symlink():
      path.unlink()
      whole.rename(path)

  monkeypatch.setattr(disk.time, 'sleep', repair)
  SummaryWriter(str(tmp_path), 4)
  assert _read(tmp_path)['loss/g'] == [1, 2, 3, 4]
  assert [row['step'] for row in _rows(tmp_path)] == [1, 2, 3, 4]


def test_only_the_first_process_writes(tmp_path):
  _write(SummaryWriter(str(tmp_path), None), range(1, 4))
  before = _read(tmp_path)
  writer = SummaryWriter(str(tmp_path), None, writes=False)
  _write(writer, range(4, 8))
  writer.write_texts(0, {'config': 'x'})
  writer.close()
  assert _read(tmp_path) == before
  assert len(_rows(tmp_path)) == 3


def test_in_a_bucket_the_files_are_those_of_a_run_on_a_disk(tmp_path, bucket):
  _write(SummaryWriter(str(tmp_path), None), range(1, 26))
  address, _ = bucket
  for resume, stop in ((None, 3), (None, 12), (10, 13), (10, 21), (20, 25)):
    _write(SummaryWriter(address, resume), range((resume or 0) + 1, stop + 1))
  with staging.local_copy(address) as local:
    assert _read(pathlib.Path(local)) == {
        tag: steps for tag, steps in _read(tmp_path).items() if tag != 'samples'} | {
            'samples': [5, 10, 15, 20]}, 'the last picture comes with the next report'
    assert buckets.read_file(f'{local}/stats.jsonl') == (tmp_path / 'stats.jsonl').read_bytes()


def test_in_a_bucket_event_files_stay_small_and_tensorboard_shows_all_of_them(
    bucket, monkeypatch, tmp_path):
  monkeypatch.setattr(summary_writer, '_PART', 1000)
  writer = SummaryWriter(bucket[0], None)
  _write(writer, range(1, 31))
  writer.close()
  writer = SummaryWriter(bucket[0], 20)
  _write(writer, range(21, 31))
  writer.close()
  assert not os.path.exists(writer.workdir)
  with staging.local_copy(bucket[0]) as local:
    sizes = [os.path.getsize(path) for path in _event_files(pathlib.Path(local))]
    assert len(sizes) > 4 and max(sizes) < 2000
    board = EventAccumulator(local).Reload()
    assert [event.step for event in board.Tensors('loss/g')] == list(range(1, 31))


def test_a_bucket_that_cannot_be_written_is_a_warning(bucket, monkeypatch, logged):
  def fail(*args):
    raise OSError(5, 'UNAVAILABLE: no answer', args[1])

  writer = SummaryWriter(bucket[0], None)
  with monkeypatch.context() as patch:
    patch.setattr(buckets, 'upload', fail)
    _write(writer, [1, 2])
  assert [level for level, _ in logged].count('warning') == 1 and 'no answer' in logged[-1][1]
  _write(writer, [3])
  with staging.local_copy(bucket[0]) as local:
    assert [row['step'] for row in _rows(pathlib.Path(local))] == [1, 2, 3]
