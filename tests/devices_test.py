"""The training step on several devices, which are parts of the host in another process."""

import json
import os
import subprocess
import sys

import pytest

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _run(task):
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS':
                 '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1'}
  result = subprocess.run(
      [sys.executable, '-m', 'tests.devices_worker', task], cwd=_ROOT, env=environment,
      capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout.splitlines()[-1])


def test_a_step_moves_one_copy_of_the_gradients_and_nothing_else():
  found = _run('collectives')
  assert set(found['bytes']) == {'all-reduce'}
  # Beside the gradients: metrics, and the mean style for `w_avg`.
  assert found['gradients'] <= found['bytes']['all-reduce'] < 1.01 * found['gradients']


def check_equal(phases, case):
  """Whether gradients and losses agree as far as float32 lets them."""
  assert set(phases) == {'Gmain', 'Dmain', 'Dreg'}
  for phase, found in phases.items():
    # Gradients of attention keys nearly cancel where all tokens are alike: one of 480
    # parameters came out at 1.3e-5.
    assert found['above 1e-5'] < 0.01, (case, phase)
    assert found['gradient'] < 3e-5, (case, phase, found['parameter'])
    assert found['loss'] < 1e-5, (case, phase)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['gradients', 'forms'])
def test_gradients_do_not_depend_on(task):
  for case, phases in _run(task).items():
    check_equal(phases, case)


@pytest.mark.slow
def test_losses_after_five_steps_do_not_depend_on_the_number_of_devices():
  losses = _run('losses')
  assert set(losses) == {'1', '2', '8'}
  for name in ('2', '8'):
    # R1 is a small number of which Adam's first steps, full ones of rounding errors, leave less.
    assert losses[name] == pytest.approx(losses['1'], rel=1e-3, abs=1e-4)
