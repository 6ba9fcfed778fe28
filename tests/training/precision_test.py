"""Training in bfloat16 beside training in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from input_pipeline import from_config
from mat_jax.runtime import sharding
from mat_jax.training import accumulators, aot, settings, start

_STEPS, _WINDOW = 200, 50


def _curves(dtype):
  """Means of the losses over each window of steps: name -> [windows]."""
  config = tiny.get_config()
  config.model.dtype, config.implementations = dtype, 'gpu'
  # At the rate of tiny.py, 8e-3, any two runs part after a few dozen steps.
  config.optimizer.learning_rate, config.train.r1_gamma = 2e-4, 1.0
  networks = start.make_networks(config)
  options, mesh = settings.training_from_config(config), sharding.make_mesh()
  state = aot.compiled_create(networks, options, mesh)(jax.random.key(0))
  step = aot.compiled_step(networks, options, mesh)
  stream = from_config.training_stream(config, *from_config.open_training(config), 0, 0, 1)
  losses = []
  for _ in range(_STEPS):
    state, found = step(state, None, sharding.to_global(next(stream), mesh))
    losses.append(np.asarray(found))
  assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(state))
  means = np.mean(np.reshape(losses, (-1, _WINDOW, len(accumulators.LOSSES))), axis=1)
  return dict(zip(accumulators.LOSSES, means.T, strict=True))


@pytest.mark.slow
def test_bfloat16_follows_the_curves_of_float32():
  exact, coarse = _curves('float32'), _curves('bfloat16')
  for name in ('loss/g', 'loss/g_stage1', 'loss/l1', 'loss/d', 'loss/d_stage1'):
    np.testing.assert_allclose(coarse[name], exact[name], rtol=0.05, err_msg=name)
