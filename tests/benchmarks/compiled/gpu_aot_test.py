import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks.compiled import gpu_aot, gpu_target
from mat_jax.errors import UserError
from tests.support.paths import ROOT


def test_dtypes_of_cards():
  h100, t4 = gpu_target.read('h100'), gpu_target.read('t4')
  assert gpu_aot.chosen_dtype(h100, None) == 'bfloat16'
  assert gpu_aot.chosen_dtype(h100, 'float32') == 'float32'
  assert gpu_aot.chosen_dtype(t4, None) == 'float16'
  assert gpu_aot.chosen_dtype(t4, 'float32') == 'float32'
  with pytest.raises(UserError, match='T4'):
    gpu_aot.chosen_dtype(t4, 'bfloat16')


def test_batches_of_other_cards_keep_the_reserve():
  # 2 GB and 1 GB for each image: 14.4, 36 and 72 GB hold 12, 34 and 70 images.
  known = {4: 6 * 10**9, 8: 10 * 10**9}
  assert gpu_aot.batches_of_cards(known, 0.1) == {'16 GB': 12, '40 GB': 32, '80 GB': 68}


def test_numbers_keep_four_digits():
  assert gpu_aot.rounded({'a': {'b': 1.23456}, 'c': 123456}) == {'a': {'b': 1.235}, 'c': 123456}


def _run(*arguments):
  # JAX_PLATFORMS is the benchmark's own business.
  environment = {k: v for k, v in os.environ.items() if k != 'JAX_PLATFORMS'}
  return subprocess.run(
      [sys.executable, '-m', 'benchmarks.compiled.gpu_aot', *arguments], cwd=ROOT, env=environment,
      capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('jax_plugins') is None
                    or importlib.util.find_spec('jax_plugins.xla_cuda12') is None,
                    reason='needs the extra gpu-aot')
def test_a_small_step_compiles_for_a100s():
  result = _run('--target=a100', '--resolution=64', '--width=0.1', '--batch=4', '--devices=1',
                '--devices=4')
  assert result.returncode == 0, result.stderr
  found = json.loads(result.stdout.splitlines()[-1])
  one, four = found['programs']
  for program in (one, four):
    convolutions = program['convolutions']
    assert convolutions['cudnn'] > 300 and convolutions['outside_cudnn'] == 0
    assert convolutions['float32_outside_r1'] == 0
    # No zeros are convolved beside those of padding.
    assert program['tflop']['compiled'] < 1.15 * program['tflop']['analytic']
  assert not one['collectives'] and set(four['collectives']) == {'all-reduce'}
  assert four['collectives']['all-reduce']['bytes'] == pytest.approx(
      four['gradient_bytes'], rel=0.01)
