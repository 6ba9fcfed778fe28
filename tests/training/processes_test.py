"""Training on two processes with two devices each, joined over the loopback network."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

from PIL import Image
import pytest

from tests.support import runs
from tests.support.paths import ROOT
from tests.training.devices_test import check_equal

_STEPS = 24
_FIELDS = {
    'implementations': 'compact', 'train.batch_size': 16, 'train.total_kimg': _STEPS * 0.016,
    'train.kimg_per_tick': 0.064, 'train.snapshot_ticks': 3, 'train.r1_interval': 4,
    'eval.batch_size': 4, 'eval.masks_per_image': 1}


def _free_port():
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]


def _environment(devices, cache=None):
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS':
                 f'--xla_force_host_platform_device_count={devices} '
                 '--xla_backend_optimization_level=1'}
  return environment | ({'JAX_COMPILATION_CACHE_DIR': cache} if cache else {})


def _train(workdir, log, devices, cache, *arguments):
  fields = [f'--config.{name}={value}' for name, value in _FIELDS.items()]
  with open(log, 'ab') as file:
    return subprocess.Popen(
        [sys.executable, 'main.py', '--config=configs/tiny.py', f'--workdir={workdir}', *fields,
         *arguments], cwd=ROOT, env=_environment(devices, cache), stdout=file, stderr=file)


def _train_on_two(workdir, logs, cache):
  port = _free_port()
  return [_train(workdir, log, 2, cache, '--distributed', f'--coordinator=localhost:{port}',
                 '--num_processes=2', f'--process_id={i}') for i, log in enumerate(logs)]


def _read(path):
  with open(path, encoding='utf-8') as file:
    return file.read()


@pytest.mark.slow
def test_gradients_on_two_processes_are_those_on_one_device():
  port = _free_port()
  workers = [subprocess.Popen(
      [sys.executable, '-m', 'tests.support.devices_worker', 'processes', f'localhost:{port}', str(i)],
      cwd=ROOT, env=_environment(2), stdout=subprocess.PIPE, text=True) for i in range(2)]
  printed = [worker.communicate(timeout=1200)[0] for worker in workers]
  assert [worker.returncode for worker in workers] == [0, 0]
  for case, phases in json.loads(printed[0].splitlines()[-1]).items():
    check_equal(phases, case)


def _stop(processes, logs):
  """One of them gets the signal, both end in time."""
  sent = time.monotonic()
  processes[1].terminate()
  assert [process.wait(60) for process in processes] == [0, 0], _read(logs[0])
  assert time.monotonic() - sent < 20


def _wait_for(text, log, processes):
  deadline = time.monotonic() + 600
  while not os.path.exists(log) or text not in _read(log):
    assert all(p.poll() is None for p in processes) and time.monotonic() < deadline, _read(log)
    time.sleep(0.1)


@pytest.mark.slow
def test_two_processes_stop_in_time_before_and_amid_the_first_validation(tmp_path):
  workdir, cache = str(tmp_path / 'run'), str(tmp_path / 'cache')
  logs = [str(tmp_path / f'log{i}.txt') for i in range(2)]
  processes = _train_on_two(workdir, logs, cache)
  _wait_for('Training on 28 images', logs[0], processes)  # both compile now
  _stop(processes, logs)
  assert 'with nothing to save' in _read(logs[0])
  assert os.listdir(os.path.join(workdir, 'checkpoints')) == []

  processes = _train_on_two(workdir, logs, cache)
  _wait_for('tick 3 ', logs[0], processes)
  time.sleep(1)  # the validation compiles now
  _stop(processes, logs)
  assert os.listdir(os.path.join(workdir, 'checkpoints')) == ['12']
  assert len(runs.rows(workdir)) == 2, 'the third tick was not complete'


@pytest.mark.slow
def test_a_process_that_dies_is_named(tmp_path):
  workdir, cache = str(tmp_path / 'run'), str(tmp_path / 'cache')
  logs = [str(tmp_path / f'log{i}.txt') for i in range(2)]
  processes = _train_on_two(workdir, logs, cache)
  _wait_for('Training on 28 images', logs[1], processes)
  processes[1].kill()
  assert processes[0].wait(300) == 2, _read(logs[0])
  assert re.search('error: process 1 has shown no sign of life for 90 s', _read(logs[0]))


@pytest.mark.slow
def test_two_processes_stop_together_and_end_like_one(tmp_path, tmp_path_factory):
  workdir, single = str(tmp_path / 'two'), str(tmp_path / 'one')
  logs = [str(tmp_path / f'log{i}.txt') for i in range(3)]
  cache = str(tmp_path_factory.mktemp('cache'))
  processes = _train_on_two(workdir, logs[:2], cache)
  stats = os.path.join(workdir, 'stats.jsonl')
  deadline = time.monotonic() + 600
  while not os.path.exists(stats):
    assert all(p.poll() is None for p in processes) and time.monotonic() < deadline, _read(logs[0])
    time.sleep(0.1)
  _stop(processes, logs)
  (stop,) = re.findall(r'Stopped by a signal at step (\d+)', _read(logs[0]))
  # Amid a slow step, process 0 saves for both.
  assert re.search(rf'Stopped by a signal(;| at step {stop};)', _read(logs[1]))
  assert stop in os.listdir(os.path.join(workdir, 'checkpoints'))

  processes = _train_on_two(workdir, logs[:2], cache)
  assert [process.wait(600) for process in processes] == [0, 0], _read(logs[0])
  assert f'Resumed at step {stop},' in _read(logs[0])
  assert _train(single, logs[2], 4, cache).wait(600) == 0, _read(logs[2])
  assert [row['step'] for row in runs.rows(workdir)] == list(range(4, _STEPS + 1, 4))
  first, second = runs.metrics(single)[0], runs.metrics(workdir)[0]
  assert first.keys() == second.keys()
  # Even in the first tick Adam, without a first moment, makes full steps of rounding errors where a
  # gradient is zero; the gradients themselves are compared above.
  for name, value in first.items():
    if name.startswith('loss/'):
      assert second[name] == pytest.approx(value, rel=5e-3), name


@pytest.mark.slow
def test_two_processes_share_the_images_to_inpaint(trained, tmp_path):
  for name in 'abc':
    for folder, color in (('images', 'gray'), ('masks', 'black')):
      (tmp_path / folder).mkdir(exist_ok=True)
      Image.new('RGB', (64, 64), color).save(tmp_path / folder / f'{name}.png')
  fields = {name: tmp_path / name for name in ('images', 'masks', 'output')}
  port = _free_port()
  workers = [subprocess.Popen(
      [sys.executable, 'main.py', '--config=configs/tiny.py', f'--workdir={trained[0]}',
       '--config.model.resolution=32', '--mode=inpaint',
       *(f'--config.inpaint.{name}={path}' for name, path in fields.items()),
       '--distributed', f'--coordinator=localhost:{port}', '--num_processes=2',
       f'--process_id={i}'],
      cwd=ROOT, env=_environment(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
      for i in range(2)]
  printed = [worker.communicate(timeout=600)[0] for worker in workers]
  assert [worker.returncode for worker in workers] == [0, 0], printed
  assert ['Inpainted 2 images' in printed[0], 'Inpainted 1 images' in printed[1]] == [True, True]
  assert sorted(os.listdir(tmp_path / 'output')) == [
      f'{name}_seed0.{suffix}' for name in 'abc' for suffix in ('json', 'png')]


def _evaluate(workdir, *arguments):
  """Follows a run that has ended."""
  fields = ['follow=True', 'follow_secs=0.1', 'batch_size=4', 'masks_per_image=2', 'features=']
  return subprocess.Popen(
      [sys.executable, 'main.py', '--config=configs/tiny.py', f'--workdir={workdir}',
       '--config.model.resolution=32', '--mode=eval',
       *(f'--config.eval.{field}' for field in fields), *arguments],
      cwd=ROOT, env=_environment(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _pairs(workdir):
  """The metrics of every pair of the last evaluation, as they are written."""
  with open(os.path.join(workdir, 'eval', 'per_image.csv'), encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  return {(row['system'], row['masks'], row['image'], row['mask']): row for row in rows}


@pytest.mark.slow
def test_two_processes_follow_a_run_and_measure_what_one_does(trained, tmp_path):
  alone, shared = (str(shutil.copytree(trained[0], tmp_path / name)) for name in ('one', 'two'))
  single = _evaluate(alone)
  printed = single.communicate(timeout=900)[0]
  assert single.returncode == 0, printed
  port = _free_port()
  workers = [_evaluate(shared, '--distributed', f'--coordinator=localhost:{port}',
                       '--num_processes=2', f'--process_id={i}') for i in range(2)]
  printed = [worker.communicate(timeout=900)[0] for worker in workers]
  assert [worker.returncode for worker in workers] == [0, 0], printed
  for text in printed:
    assert [int(step) for step in re.findall(r'Evaluated step (\d+)', text)] == [2, 4]
  first, second = _pairs(alone), _pairs(shared)
  assert first.keys() == second.keys() and len(first) == 2 * 10  # MAT and the mean colour
  for key, row in first.items():
    for name, value in row.items():
      if name.startswith('lpips'):
        assert float(second[key][name]) == pytest.approx(float(value), rel=1e-4), (key, name)
      else:
        assert second[key][name] == value, (key, name)
