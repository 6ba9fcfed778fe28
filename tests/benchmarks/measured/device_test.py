"""Of `benchmarks.measured.device`; that of several devices is `devices_test`."""

import json
import os
import select
import subprocess
import sys

import jax
import pytest

from benchmarks import peaks
from benchmarks.measured import device
from mat_jax.errors import UserError
from tests.support.paths import ROOT


def _out_of_memory():
  raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')


def test_a_sweep_doubles_until_the_memory_is_full():
  rows = device.sweep(
      device.doubled(4), lambda n: {'images_per_second': n} if n < 16 else _out_of_memory(), 100)
  assert rows == [{'batch_size': 4, 'images_per_second': 4},
                  {'batch_size': 8, 'images_per_second': 8},
                  {'batch_size': 16, 'ended': 'out of memory'}]


def test_a_sweep_ends_when_the_time_is_over():
  rows = device.sweep(device.doubled(1), lambda n: {}, -1)
  assert rows == [{'batch_size': 1}, {'batch_size': 2, 'ended': 'out of time'}]


def test_other_errors_are_not_taken_for_a_full_memory():
  def fail(batch_size):
    raise jax.errors.JaxRuntimeError('INTERNAL: something broke')

  with pytest.raises(jax.errors.JaxRuntimeError, match='something broke'):
    device.sweep([4], fail, 100)


def test_calls_are_timed_until_there_are_enough_or_the_time_is_over():
  assert len(device.timed(lambda: None, 3, 100)) == 3
  assert len(device.timed(lambda: None, 3, 0)) == 1


def test_mfu_is_the_share_of_the_peak():
  row = {'batch_size': 4, 'images_per_second': 10.0}
  assert device.with_mfu(row, 2e12, 100e12) == row | {'mfu': 0.2, 'tflops': 20.0}
  assert device.with_mfu(row, 2e12, None)['mfu'] is None


@pytest.mark.parametrize(('kind', 'dtype', 'teraflops'), [
    ('TPU v5 lite', 'bfloat16', 197), ('TPU v5p', 'bfloat16', 459), ('TPU v5', 'bfloat16', 459),
    ('TPU v6 lite', 'bfloat16', 918), ('NVIDIA A100-SXM4-40GB', 'float32', 156),
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989), ('NVIDIA H100 PCIe', 'bfloat16', 756),
    ('NVIDIA L40S', 'bfloat16', None), ('Tesla T4', 'bfloat16', None), ('cpu', 'float32', None)])
def test_peaks_are_those_of_the_kind(kind, dtype, teraflops):
  assert peaks.peak_flops(kind, dtype) == (teraflops and teraflops * 1e12)


@pytest.mark.parametrize('value', ['four', '0'])
def test_a_mistake_is_one_sentence(value):
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.measured.device', f'--batch_sizes={value}'], cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith('error: --batch_sizes')


def test_only_one_process_at_a_time_has_its_turn(tmp_path):
  path = str(tmp_path / 'lock')
  program = f"""
from benchmarks.measured import device
device.take_turn({path!r})
print('begun', flush=True)
input()
"""
  waiting = [subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env={**os.environ, 'JAX_PLATFORMS': 'cpu'}) for _ in range(2)]
  (first,), _, _ = select.select([process.stdout for process in waiting], [], [])
  first, second = sorted(waiting, key=lambda process: process.stdout is not first)
  assert first.stdout.readline() == 'begun\n'
  # Importing takes seconds, so that both have come to the lock when this one would be through.
  assert not select.select([second.stdout], [], [], 3)[0]
  first.communicate('\n')
  assert second.stdout.readline() == 'begun\n'
  second.communicate('\n')


def test_a_turn_that_cannot_be_taken_is_one_sentence(tmp_path):
  with pytest.raises(UserError, match='--turn is .*/missing/lock, which cannot be made'):
    device.take_turn(str(tmp_path / 'missing' / 'lock'))


@pytest.mark.slow
def test_a_program_is_compiled_once_for_two_processes(tmp_path):
  command = [sys.executable, '-m', 'benchmarks.measured.device', '--resolution=64', '--width=0.0625',
             '--batch_sizes=', '--steps=1', '--generate=1', '--tflop_per_image=1']
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': str(tmp_path),
                 'JAX_DEBUG_LOG_MODULES': 'jax._src.compiler'}

  def run(*arguments):
    return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True,
                          text=True, check=True)

  first = run('--compile_only')
  (row,) = json.loads(first.stdout.splitlines()[-1])['generator']
  assert row.keys() == {'batch_size', 'compile_seconds'}
  second = run(f'--turn={tmp_path / "lock"}')
  (row,) = json.loads(second.stdout.splitlines()[-1])['generator']
  assert row['images_per_second'] > 0 and row['peak_memory_gb'] > 0
  assert "cache hit for 'jit_run'" in second.stderr
  assert "cache hit for 'jit_run'" not in first.stderr


@pytest.mark.slow
def test_a_small_model_is_measured():
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.measured.device', '--resolution=64', '--width=0.0625',
       '--batch_sizes=4', '--steps=2', '--generate=1'], cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, check=True)
  found = json.loads(done.stdout.splitlines()[-1])
  (row,) = found['training']
  assert found['best'] == row and row['mfu'] is None
  assert row['step_seconds'] == pytest.approx(
      (15 * row['plain_step_seconds'] + row['r1_step_seconds']) / 16, rel=0.01)
  assert row['seconds_per_kimg'] == pytest.approx(1000 * row['step_seconds'] / 4, rel=0.01)
  assert row['peak_memory_gb'] > 0 and found['generator'][0]['images_per_second'] > 0
