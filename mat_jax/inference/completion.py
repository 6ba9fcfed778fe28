"""The generator outside of training: the random inputs of an image do not depend on its batch."""

from collections.abc import Callable
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from mat_jax.nn.generator import Generator
from mat_jax.nn.sizes import keep_mask_shapes
from mat_jax.ops.implementation import for_platform


def sample(generator: Generator, seeds: jax.Array, height: int, width: int,
           keep_seeds: jax.Array | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Latents and keep masks that depend on an image's own seed alone.

  Args:
    generator: module.
    seeds: uint32 [N].
    height: image height.
    width: image width.
    keep_seeds: uint32 [N], of the keep masks; None takes `seeds`.

  Returns:
    z [N, 512] and keep masks for the image size, as `Generator` takes them.
  """
  shapes = keep_mask_shapes(generator.resolution, generator.width, height, width)

  def one(seed: jax.Array, keep_seed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    z_key = jax.random.split(jax.random.key(seed), 3)[0]
    _, first_key, second_key = jax.random.split(jax.random.key(keep_seed), 3)
    return (jax.random.normal(z_key, (512,)), jax.random.bernoulli(first_key, 0.5, shapes['first']),
            jax.random.bernoulli(second_key, 0.5, shapes['second']))

  z, first_masks, second_masks = jax.vmap(one)(seeds, seeds if keep_seeds is None else keep_seeds)
  return z, {'first': first_masks.astype(jnp.float32), 'second': second_masks.astype(jnp.float32)}


sample_jitted = jax.jit(sample, static_argnames=('generator', 'height', 'width'))


@functools.partial(jax.jit, static_argnames=('generator', 'noise_mode'))
def complete(generator: Generator, variables: dict, image: jax.Array, mask: jax.Array,
             seeds: jax.Array, truncation_psi: float | jax.Array = 1.0, noise_mode: str = 'const',
             keep_seeds: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Completes a batch.

  Args:
    generator: module (static).
    variables: its params and buffers.
    image: [N, H, W, 3] in [-1, 1].
    mask: [N, H, W, 1], 1 = keep.
    seeds: uint32 [N], the randomness of each image.
    truncation_psi: 1 for full variety.
    noise_mode: 'const' (native resolution only) or 'none'.
    keep_seeds: uint32 [N], of the keep masks of the style manipulation module; None takes
      `seeds`, which otherwise decide the latents alone.

  Returns:
    Result and stage-one image, float32 [N, H, W, 3], clipped to [-1, 1].
  """
  z, keep_masks = sample(generator, seeds, image.shape[1], image.shape[2], keep_seeds)
  return complete_latents(
      generator, variables, image, mask, z, keep_masks, truncation_psi, noise_mode)


@functools.partial(jax.jit, static_argnames=('generator', 'noise_mode'))
def complete_latents(generator: Generator, variables: dict, image: jax.Array, mask: jax.Array,
                     z: jax.Array, keep_masks: dict[str, jax.Array],
                     truncation_psi: float | jax.Array = 1.0,
                     noise_mode: str = 'const') -> tuple[jax.Array, jax.Array]:
  """`complete` with given latents and keep masks, as `sample` makes them."""
  def apply(image: jax.Array, mask: jax.Array, z: jax.Array,
            keep_masks: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return cast(tuple[jax.Array, jax.Array], generator.apply(
        variables, image, mask, z, truncation_psi=truncation_psi, noise_mode=noise_mode,
        keep_masks=keep_masks))

  inputs = (image, mask, z, keep_masks)
  implementation = generator.implementation or for_platform()
  found = _map_images(apply, inputs) if implementation.inference == 'image' else apply(*inputs)
  return jax.tree.map(lambda x: jnp.clip(x, -1.0, 1.0), found)


def _map_images(function: Callable[..., Any], inputs: Any) -> Any:
  """A function of batches, one image after the other."""
  parts = jax.tree.map(lambda x: x[:, None], inputs)
  found = jax.lax.map(lambda part: function(*part), parts)
  return jax.tree.map(lambda x: x[:, 0], found)
