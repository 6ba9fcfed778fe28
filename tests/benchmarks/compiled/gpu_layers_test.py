import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled import gpu_layers
from mat_jax.ops.implementation import for_platform
from tests.support.paths import ROOT

_RESULTS = {
    'synthesis_block': (2, 256, 256, 128), 'synthesis_block_of_stage1': (2, 256, 256, 180),
    'encoder_block': (2, 128, 128, 256), 'first_encoder_block': (2, 256, 256, 128),
    'discriminator_block': (2, 128, 128, 256), 'partial_convolution': (2, 128, 128, 180),
    'transformer_block': (2, 64, 64, 180), 'vgg': (2, 32, 32, 512)}


@pytest.mark.parametrize('name', gpu_layers.LAYERS)
def test_layers_are_those_of_the_published_size(name):
  run, varied, rest = gpu_layers.LAYERS[name](2, for_platform(jnp.bfloat16, 'gpu'))
  result = jax.tree.leaves(jax.eval_shape(run, varied, rest))[0]
  assert result.shape == _RESULTS[name] and result.dtype == jnp.bfloat16


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('jax_plugins') is None
                    or importlib.util.find_spec('jax_plugins.xla_cuda12') is None,
                    reason='needs the extra gpu-aot')
def test_the_filter_of_both_axes_moves_less():
  def moved(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != 'JAX_PLATFORMS'}
    result = subprocess.run(
        [sys.executable, '-m', 'benchmarks.compiled.gpu_layers', '--layers=partial_convolution',
         *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])['layers']['partial_convolution']['gb_moved']

  assert moved() < 0.75 * moved('--fir=shifted_adds')
