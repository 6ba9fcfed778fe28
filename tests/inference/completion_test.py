import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mat_jax import Generator
from mat_jax.inference import completion
from mat_jax.ops.implementation import PORTABLE


def test_image_by_image_is_the_same_as_a_batch():
  generators = [
      Generator(64, mapping_layers=1, width=0.0625,
                implementation=dataclasses.replace(PORTABLE, inference=how)) for how in ('batch', 'image')]
  keys = jax.random.split(jax.random.key(0), 3)
  image = jax.random.uniform(keys[0], (3, 64, 64, 3), minval=-1)
  mask = jax.random.bernoulli(keys[1], 0.5, (3, 64, 64, 1)).astype(jnp.float32)
  variables = jax.jit(generators[0].init)(keys[2], image[:1], mask[:1], jnp.zeros((1, 512)))
  seeds = jnp.array([3, 1, 2], jnp.uint32)
  results = [completion.complete(generator, variables, image, mask, seeds)
             for generator in generators]
  for batch, single in zip(*results, strict=True):
    assert batch.shape == (3, 64, 64, 3)
    np.testing.assert_allclose(batch, single, atol=1e-4)
