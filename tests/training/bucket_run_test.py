"""A run of `main.py` in a bucket that is killed, evaluated and reported; the server on loopback."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import tiny
from mat_jax.checkpoints.step_directories import META
from mat_jax.runtime.storage import buckets, staging
from tests.support import runs
from tests.support.paths import ROOT

_STEPS = 32
_FIELDS = {
    'implementations': 'compact', 'train.batch_size': 4, 'train.total_kimg': _STEPS * 0.004,
    'train.kimg_per_tick': 0.008, 'train.snapshot_ticks': 2, 'train.sample_images': 2,
    # What is saved and written is the same without a discriminator, but for its arrays' values.
    'train.adversarial_weight': 0.0, 'train.adversarial_stage1_weight': 0.0, 'augment.pipeline': '',
    'eval.batch_size': 3, 'eval.masks_per_image': 1, 'eval.features': '', 'eval.save_pictures': 4}
_REFUSED_SECONDS = 10


def _start(log, *arguments):
  with open(log, 'ab') as file:
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=file,
                            env={**os.environ, 'JAX_PLATFORMS': 'cpu'})


def _train(log, workdir, *arguments):
  return _start(log, 'main.py', '--config=configs/tiny.py', f'--workdir={workdir}', *arguments,
                *(f'--config.{name}={value}' for name, value in _FIELDS.items()))


def _config():
  config = tiny.get_config()
  config.update_from_flattened_dict(_FIELDS)
  return config


def _wait_for(condition, process, log, seconds=1200):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None and time.monotonic() < deadline, log.read_text()
    time.sleep(0.002)


# Objects whose writing is a moment to kill a session, and how often they were written in it: amid
# a save, after one, and at a report some steps after the session has resumed.
_MOMENTS = ((rf'checkpoints/4/(?!{META})', 1), (f'checkpoints/8/{META}', 1), ('stats.jsonl', 5))


def _has_come(server, pattern, count):
  """Tells whether an object has been written so often from now on."""
  begin = len(server.requests)
  return lambda: sum(method == 'POST' and bool(re.search(pattern, name))
                     for method, name in server.requests[begin:]) >= count


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_resumes_and_is_evaluated(bucket, tmp_path):
  workdir, server = bucket
  straight, log = str(tmp_path / 'straight'), tmp_path / 'log.txt'
  assert _train(log, straight).wait() == 0, log.read_text()
  for pattern, count in _MOMENTS:
    has_come = _has_come(server, pattern, count)
    process = _train(log, workdir)
    _wait_for(has_come, process, log)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  assert log.read_text().count('a save that was cut off') >= 1
  process, reports = _train(log, workdir), log.read_text().count('images/s')
  _wait_for(lambda: log.read_text().count('images/s') > reports, process, log)
  server.refuse(_REFUSED_SECONDS)
  assert process.wait() == 0, log.read_text()
  assert server.refused and log.read_text().count('Resumed at step') >= 2
  assert not re.search('cannot be written|was not saved', log.read_text())
  _check_same(workdir, straight)
  _check_evaluation(workdir, straight, log)


def _check_same(workdir, straight):
  """The same state, bit for bit, the same rows, and no step of TensorBoard's twice or missing."""
  jax.tree.map(np.testing.assert_array_equal, runs.state(workdir, _config()),
               runs.state(straight, _config()))
  top = [name for name in buckets.listed(workdir) if name != 'checkpoints']
  with staging.local_copy(workdir, top) as local:
    assert runs.metrics(local) == runs.metrics(straight)
    ticks = list(range(2, _STEPS + 1, 2))
    assert runs.event_steps(local, 'progress/kimg') == ticks
    assert runs.event_steps(local, 'validation/psnr') == ticks[1::2]
    assert runs.event_steps(local, 'image_masked_stage1_result') == [0, *ticks[1::2]]
  assert '.lock' not in buckets.listed(workdir)


def _check_evaluation(workdir, straight, log):
  """The same numbers as of the run on the disk, and a page."""
  for place in (workdir, straight):
    process = _train(log, place, '--mode=eval')
    assert process.wait() == 0, log.read_text()
    process = _start(log, '-m', 'eval.report', f'--workdir={place}')
    assert process.wait() == 0, log.read_text()
  found = json.loads(buckets.read_file(f'{workdir}/eval/metrics.json'))
  with open(f'{straight}/eval/metrics.json', encoding='utf-8') as file:
    wanted = json.load(file)
  assert found['mask_sets'] == wanted['mask_sets'] and found['source'] == '.'
  assert sorted(name for name in buckets.files_of(straight + '/eval') if 'events' not in name) == (
      [name for name in buckets.walk(f'{workdir}/eval') if 'events' not in name])
  page = buckets.read_file(f'{workdir}/report/report.html').decode()
  assert '<html' in page and '/tmp' not in page
