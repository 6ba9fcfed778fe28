"""A generator of the smallest sizes with random weights, whose results have structure."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mat_jax.checkpoints.reader import EmaCheckpoint
from mat_jax.nn import model_config

MODEL = {'resolution': 64, 'mapping_layers': 1, 'width': 0.03125, 'dtype': 'auto'}


@functools.cache
def checkpoint(seed: int = 0) -> EmaCheckpoint:
  """An averaged generator that was never trained; not to be changed."""
  model = ml_collections.ConfigDict(MODEL)
  module = model_config.generator_from_config(model)
  side = model.resolution
  image, mask = (jax.ShapeDtypeStruct((1, side, side, n), jnp.float32) for n in (3, 1))
  shapes = jax.eval_shape(module.init, jax.random.key(0), image, mask,
                          jax.ShapeDtypeStruct((1, 512), jnp.float32))
  rng = np.random.default_rng(seed)
  variables = jax.tree.map(
      lambda x: (0.5 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
  return EmaCheckpoint(7, model, 28, variables, 'small')
