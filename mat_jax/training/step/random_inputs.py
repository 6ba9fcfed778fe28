"""The random inputs of a pass through the networks, sampled for a whole batch at once.

Every array has a leading batch axis and is sampled for the global batch: the random inputs of an
image depend neither on the devices nor on the microbatches.
"""

from typing import Any

from flax import traverse_util
import flax.struct
import jax
import jax.numpy as jnp

from mat_jax.nn.generator import Generator
from mat_jax.nn.sizes import keep_mask_shapes, num_ws
from mat_jax.training.step import augment
from mat_jax.training.step.settings import Training

Tree = Any
_NOISE = 'noise_const'


class RandomInputs(flax.struct.PyTreeNode):
  """The random inputs of one pass of the generator, and of the augmentation.

  Attributes:
    z: [N, 512], latents.
    z_mixed: [N, 512], latents of the styles from `cutoff` on (style mixing).
    cutoff: int32 [N], the same for all images; num_ws for no mixing.
    keep_masks: {'first': [N, h, w, C], 'second': [N, h, w, C]}; see `keep_mask_shapes`.
    noise: path in the generator's buffers -> [N, h, w], replaces the constant
      noise; empty unless noise is random.
    transforms: of the augmentation, or None.
  """

  z: jax.Array
  z_mixed: jax.Array
  cutoff: jax.Array
  keep_masks: dict[str, jax.Array]
  noise: dict[tuple[str, ...], jax.Array]
  transforms: augment.Transforms | None = None


def sample(key: jax.Array, generator: Generator, buffers: Tree, probability: jax.Array,
           settings: Training) -> RandomInputs:
  """Samples the random inputs of a training pass.

  Args:
    key: typed key.
    generator: module.
    buffers: its buffers, for the shapes of the noise.
    probability: float32 [], of each augmentation.
    settings: of the step.

  Returns:
    The random inputs; with probability `settings.style_mixing` styles are mixed from one
    cutoff on for the whole batch (StyleGAN, arXiv 1812.04948, section 3.1).
  """
  n, count = settings.batch_size, num_ws(generator.resolution)
  z_key, mixed_key, choice_key, cutoff_key, keep_key, noise_key, augment_key = (
      jax.random.split(key, 7))
  cutoff = jax.random.randint(cutoff_key, (), 1, count)
  mix = jax.random.uniform(choice_key) < settings.style_mixing
  return RandomInputs(
      z=jax.random.normal(z_key, (n, 512)), z_mixed=jax.random.normal(mixed_key, (n, 512)),
      cutoff=jnp.broadcast_to(jnp.where(mix, cutoff, count), (n,)),
      keep_masks=_keep_masks(keep_key, n, generator),
      noise=_noise(noise_key, n, buffers) if settings.noise_mode == 'random' else {},
      transforms=sample_transforms(augment_key, generator.resolution, probability, settings))


def sample_transforms(key: jax.Array, resolution: int, probability: jax.Array,
                      settings: Training) -> augment.Transforms | None:
  """Samples the augmentation of a batch; None without augmentation."""
  pipeline = settings.augmentation.pipeline
  if not pipeline:
    return None
  return augment.sample(key, settings.batch_size, probability, pipeline, resolution, resolution)


def _keep_masks(key: jax.Array, n: int, generator: Generator) -> dict[str, jax.Array]:
  shapes = keep_mask_shapes(generator.resolution, generator.width)
  keys = jax.random.split(key, len(shapes))
  return {name: jax.random.bernoulli(k, 0.5, (n, *shape))
          for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def _noise(key: jax.Array, n: int, buffers: Tree) -> dict[tuple[str, ...], jax.Array]:
  maps = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(buffers).items()
          if path[-1] == _NOISE}
  keys = jax.random.split(key, len(maps))
  return {path: jax.random.normal(k, (n, *shape))
          for k, (path, shape) in zip(keys, maps.items(), strict=True)}


def with_noise(buffers: Tree, inputs: RandomInputs) -> Tree:
  """The buffers with the sampled noise in place of the constant one."""
  if not inputs.noise:
    return buffers
  return traverse_util.unflatten_dict({**traverse_util.flatten_dict(buffers), **inputs.noise})
