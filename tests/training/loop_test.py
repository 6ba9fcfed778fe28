import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from mat_jax.checkpoints import step_directories
from tests.support import loop_worker, runs
from tests.support.paths import ROOT

_SECONDS = 9  # instead of the 20 of `config.train.preemption_secs`
# Phase of a run -> the step that is saved, None for none; and whether that is all there is.
_PHASES = {
    'open_training': (None, True), 'make_networks': (None, True), 'initial_state': (None, True),
    'data': (5, True), 'compiling': (5, True), 'slow step': (5, True),
    'scalars': (4, True), 'row': (4, True), 'validation': (4, True), 'samples': (4, True),
    'disk': (4, True),
    # No complete state, or a disk that does not write: what is there is older.
    'step': (4, False), 'save': (None, False)}


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """The workdir and the last state of a run without interruption."""
  workdir = str(tmp_path_factory.mktemp('straight'))
  return workdir, jax.device_get(loop_worker.run(workdir))


@pytest.fixture(scope='module')
def ends(tmp_path_factory):
  """Phase -> workdir, exit code and seconds from SIGTERM in that phase."""
  workdirs = {phase: str(tmp_path_factory.mktemp('run')) for phase in _PHASES}
  done = subprocess.run(
      [sys.executable, '-m', 'tests.support.loop_worker', str(_SECONDS),
       *(f'{phase}={workdir}' for phase, workdir in workdirs.items())],
      cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  return {phase: (workdirs[phase], *found[phase]) for phase in _PHASES}


@pytest.mark.parametrize('phase', _PHASES)
def test_a_signal_in_any_phase_ends_the_run_in_time(ends, phase):
  step, is_all = _PHASES[phase]
  workdir, code, seconds = ends[phase]
  assert code == (0 if is_all else 143)
  assert seconds < _SECONDS + 2
  newest = step_directories.newest_step(workdir)
  assert (newest and int(os.path.basename(newest))) == step


@pytest.mark.parametrize('phase', ['data', 'compiling', 'slow step', 'scalars', 'row', 'validation',
                                   'samples', 'disk', 'step', 'save'])
def test_the_same_command_goes_on_exactly(ends, straight, phase):
  workdir = ends[phase][0]
  state = jax.device_get(loop_worker.run(workdir))
  jax.tree.map(np.testing.assert_array_equal, state, straight[1])
  assert runs.metrics(workdir) == runs.metrics(straight[0])
  for tag in ('loss/g', 'validation/psnr', 'image_masked_stage1_result'):
    assert runs.event_steps(workdir, tag) == runs.event_steps(straight[0], tag)
