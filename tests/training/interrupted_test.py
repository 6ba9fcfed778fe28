"""Runs of `main.py` that are killed or asked to stop, and started again."""

import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import tiny
from tests.support import runs
from tests.support.paths import ROOT

_STEPS = 120
_KILLS = 10
_FIELDS = {
    'implementations': 'compact', 'train.batch_size': 4, 'train.total_kimg': _STEPS * 0.004,
    'train.kimg_per_tick': 0.016, 'train.snapshot_ticks': 2, 'train.r1_interval': 4,
    'train.sample_images': 2, 'eval.batch_size': 3, 'eval.masks_per_image': 1,
    'augment.pipeline': 'b', 'augment.kimg': 1.0}


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """A cache of compiled programs, so that a start takes seconds."""
  return str(tmp_path_factory.mktemp('cache'))


def _start(workdir, cache):
  os.makedirs(workdir, exist_ok=True)
  environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache, 'JAX_PLATFORMS': 'cpu'}
  with open(os.path.join(workdir, 'log.txt'), 'ab') as log:
    return subprocess.Popen(
        [sys.executable, 'main.py', '--config=configs/tiny.py', f'--workdir={workdir}',
         *(f'--config.{name}={value}' for name, value in _FIELDS.items())],
        cwd=ROOT, env=environment, stdout=log, stderr=log)


def _log(workdir):
  with open(os.path.join(workdir, 'log.txt'), encoding='utf-8') as file:
    return file.read()


def _wait_for(condition, process, seconds=300):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)


def _config():
  config = tiny.get_config()
  config.update_from_flattened_dict(_FIELDS)
  return config


@pytest.fixture(scope='module')
def straight(tmp_path_factory, cache):
  """The workdir of a run without interruption."""
  workdir = str(tmp_path_factory.mktemp('straight'))
  assert _start(workdir, cache).wait() == 0, _log(workdir)
  return workdir


def _check_same(workdir, straight):
  """The same state, bit for bit, the same rows, and no step of TensorBoard's twice or missing."""
  jax.tree.map(np.testing.assert_array_equal, runs.state(workdir, _config()),
               runs.state(straight, _config()))
  assert runs.metrics(workdir) == runs.metrics(straight)
  ticks = list(range(4, _STEPS + 1, 4))
  assert runs.event_steps(workdir, 'loss/g') == ticks
  assert runs.event_steps(workdir, 'validation/psnr') == ticks[1::2]
  assert runs.event_steps(workdir, 'image_masked_stage1_result') == [0, *ticks[1::2]]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(tmp_path, straight, cache):
  workdir, moments = str(tmp_path), random.Random(0)
  for kill in range(_KILLS):
    process = _start(workdir, cache)
    # In turn from the beginning of a session, before its first step, and from its first report.
    event = 'images/s' if kill % 2 else 'Training on 28 images'
    count = _log(workdir).count(event)
    _wait_for(lambda event=event, count=count: _log(workdir).count(event) > count, process)
    time.sleep(moments.uniform(0, 8))
    assert process.poll() is None, 'the run has to be longer'
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  assert _start(workdir, cache).wait() == 0, _log(workdir)
  assert _log(workdir).count('Resumed at step') >= 3, 'kills came too early to test resuming'
  _check_same(workdir, straight)


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_0_within_30_seconds(tmp_path, straight, cache):
  workdir = str(tmp_path)
  for rows in (1, 4, 7):
    process = _start(workdir, cache)
    stats = os.path.join(workdir, 'stats.jsonl')
    _wait_for(lambda rows=rows, stats=stats: os.path.exists(stats)
              and len(runs.rows(workdir)) >= rows, process)
    time.sleep(0.7)  # amid a tick
    sent = time.monotonic()
    process.terminate()
    assert process.wait(30) == 0
    assert time.monotonic() - sent < 30
    assert 'Stopped by a signal at step' in _log(workdir)
  assert _start(workdir, cache).wait() == 0, _log(workdir)
  _check_same(workdir, straight)


@pytest.mark.slow
def test_a_second_run_in_the_workdir_is_refused(tmp_path, cache):
  workdir = str(tmp_path)
  first = _start(workdir, cache)
  _wait_for(lambda: 'Training on 28 images' in _log(workdir), first)
  assert _start(workdir, cache).wait() == 2
  assert f'error: another run, process {first.pid} on ' in _log(workdir)
  first.kill()
  first.wait()
