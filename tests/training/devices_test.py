"""The training step on several devices, which are parts of the host in another process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import devices_worker
from tests.support.paths import ROOT


def _run(task):
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS':
                 '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1'}
  result = subprocess.run(
      [sys.executable, '-m', 'tests.support.devices_worker', task], cwd=ROOT, env=environment,
      capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout.splitlines()[-1])


def test_a_step_moves_one_copy_of_the_gradients_and_nothing_else():
  found = _run('collectives')
  assert set(found['bytes']) == {'all-reduce'}
  # Beside the gradients: metrics, and the mean style for `w_avg`.
  assert found['gradients'] <= found['bytes']['all-reduce'] < 1.01 * found['gradients']


def check_equal(phases, case, disturbed=None):
  """Whether gradients and losses agree as far as float32 lets them.

  Kernel gradients at 64 px are sums of `devices_worker.BATCH` times 64 * 64 terms. Added up one
  after the other they are off by eps * sqrt(terms / 2), a random walk; a processor whose matrix
  products cut the sum in parts is off by less, and so are several devices. The few parameters
  there, and biases, whose sums nearly cancel, may differ by eight times that; most others have far
  fewer terms. Where intermediate results are computed anew, as with remat, rounding errors begin
  earlier, and pass through more operations: then twice what rounding errors of the parameters
  change, `disturbed`, is allowed.
  """
  rounding = np.finfo(np.float32).eps / 2 * np.sqrt(devices_worker.BATCH * 64 * 64 / 2)
  assert set(phases) == {'Gmain', 'Dmain', 'Dreg'}
  for phase, found in phases.items():
    assert found['above 1e-5'] < 0.2, (case, phase)
    allowed = max(8 * rounding, 2 * disturbed[phase]['gradient'] if disturbed else 0)
    assert found['gradient'] < allowed, (case, phase, found['parameter'])
    assert found['loss'] < 1e-5, (case, phase)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['gradients', 'variants'])
def test_gradients_do_not_depend_on(task):
  found = _run(task)
  disturbed = found.pop('disturbed')
  assert all(phase['gradient'] < 1e-3 for phase in disturbed.values())
  for case, phases in found.items():
    check_equal(phases, case, disturbed)


@pytest.mark.slow
def test_losses_of_the_first_steps_do_not_depend_on_the_number_of_devices():
  """Several devices change what rounding errors of the initial parameters do.

  Adam's first steps have full length where the gradient is a rounding error, too, so that one of
  1e-7 is one of 1e-3 three steps later, and two such runs are as far from each other as from a third
  within a factor of ten.
  """
  losses = {name: np.array(rows) for name, rows in _run('losses').items()}
  assert set(losses) == {'1', '1 disturbed', '2', '8'}
  one, most = losses['1'], np.abs(losses['1 disturbed'] - losses['1'])
  assert np.isfinite(one).all() and most[1:].max() < 0.1
  for name in ('2', '8'):
    difference = np.abs(losses[name] - one)
    np.testing.assert_array_less(difference[0], 1e-5 * np.maximum(one[0], 0.1))
    np.testing.assert_array_less(
        difference.max(axis=1)[1:], np.minimum(10 * most.max(axis=1)[1:], 0.1))
