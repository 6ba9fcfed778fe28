import os
import subprocess
import sys

import jax
import jax.numpy as jnp

from benchmarks.measured import compile_time
from configs import tiny
from tests.support.paths import ROOT


def test_a_program_is_made_ready_without_being_run():
  def fail(x):
    jax.debug.callback(lambda: 1 / 0)
    return 2 * x

  found = compile_time.measure((jax.jit(fail), (jax.ShapeDtypeStruct((3,), jnp.float32),)))
  assert found['seconds'] >= 0


def test_the_programs_are_those_of_training():
  config = tiny.get_config()
  step, (state, features, batch) = compile_time.make('tiny_step', config)
  assert features is None and batch['image'].shape == (8, 64, 64, 3)
  assert callable(step) and state.step.shape == ()


def test_an_unknown_program_is_one_sentence():
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.measured.compile_time', '--programs=everything'], cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith("error: --programs has 'everything'; choose")
