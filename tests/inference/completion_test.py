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


def test_latents_and_keep_masks_have_seeds_of_their_own():
  generator = Generator(64, mapping_layers=1, width=0.0625)
  seeds, others = jnp.array([3, 1], jnp.uint32), jnp.array([4, 1], jnp.uint32)
  z, masks = completion.sample(generator, seeds, 64, 64)
  same_z, other_masks = completion.sample(generator, seeds, 64, 64, others)
  other_z, same_masks = completion.sample(generator, others, 64, 64, seeds)
  np.testing.assert_array_equal(z, same_z)
  assert np.any(z[0] != other_z[0]) and np.all(z[1] == other_z[1])
  for name in ('first', 'second'):
    np.testing.assert_array_equal(masks[name], same_masks[name])
    assert np.any(masks[name][0] != other_masks[name][0])
    np.testing.assert_array_equal(masks[name][1], other_masks[name][1])
