"""The functions that an exported program holds, and the shapes of their arguments.

Both take the weights as their first argument, not as constants. At 256 px and full width an entry
then has 2.5 MB, and the weights lie once, in a file of 240 MB that any program can read; as constants
every entry would hold them all, and XLA would compile and keep them with every batch size.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from mat_jax.inference import completion
from mat_jax.nn.generator import Generator
from mat_jax.nn.sizes import keep_mask_shapes
from mat_jax.ops.implementation import PORTABLE

SEEDS = 'seeds'
LATENTS = 'latents'
# Entry -> names of its arguments behind the weights, in their order.
ARGUMENTS = {
    SEEDS: ('images', 'masks', 'seeds', 'keep_seeds', 'truncation_psi'),
    LATENTS: ('images', 'masks', 'z', 'keep_first', 'keep_second', 'truncation_psi'),
}
ENTRIES = tuple(ARGUMENTS)
LATENT_SIZE = 512
# The value of a mask where a pixel is kept; all else is hole.
KEPT = 255

# Path of a variable, joined by '/', -> array.
Weights = Mapping[str, Any]
# Name of an argument -> its dtype, and its shape without the batch; None for a scalar.
Arguments = dict[str, tuple[str, tuple[int, ...] | None]]


def portable(generator: Generator) -> Generator:
  """The same network in float32, by operations that every platform has."""
  return generator.clone(dtype=jnp.float32, implementation=PORTABLE)


def weights_of(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The variables of a generator as the flat dict that the entries take."""
  flat = traverse_util.flatten_dict(variables, sep='/')
  return {name: np.asarray(flat[name]) for name in sorted(flat)}


def arguments(entry: str, generator: Generator) -> Arguments:
  """What an entry takes behind the weights, in its order."""
  side = generator.resolution
  keep_masks = keep_mask_shapes(side, generator.width)
  known: Arguments = {
      'images': ('uint8', (side, side, 3)), 'masks': ('uint8', (side, side, 1)),
      'seeds': ('uint32', ()), 'keep_seeds': ('uint32', ()), 'z': ('float32', (LATENT_SIZE,)),
      'keep_first': ('float32', keep_masks['first']),
      'keep_second': ('float32', keep_masks['second']), 'truncation_psi': ('float32', None)}
  return {name: known[name] for name in ARGUMENTS[entry]}


def specifications(entry: str, generator: Generator, batch: Any) -> list[jax.ShapeDtypeStruct]:
  """The arguments of an entry behind the weights as shapes.

  Args:
    entry: one of `ENTRIES`.
    generator: the network.
    batch: number of images, or a symbolic dimension.
  """
  return [jax.ShapeDtypeStruct(() if shape is None else (batch, *shape), dtype)
          for dtype, shape in arguments(entry, generator).values()]


def function(entry: str, generator: Generator) -> Callable[..., jax.Array]:
  """The function of an entry, to be compiled or exported.

  Args:
    entry: one of `ENTRIES`.
    generator: the network, as `portable` gives it.

  Returns:
    (weights, *arguments) -> uint8 [N, R, R, 3]; kept pixels equal those of the images.
  """

  def inpaint_by_seeds(weights: Weights, images: jax.Array, masks: jax.Array, seeds: jax.Array,
                       keep_seeds: jax.Array, truncation_psi: jax.Array) -> jax.Array:
    result, _ = completion.complete(
        generator, _variables(weights), _normalized(images), _kept(masks).astype(jnp.float32),
        seeds, truncation_psi, keep_seeds=keep_seeds)
    return _composed(images, masks, result)

  def inpaint_by_latents(weights: Weights, images: jax.Array, masks: jax.Array, z: jax.Array,
                         keep_first: jax.Array, keep_second: jax.Array,
                         truncation_psi: jax.Array) -> jax.Array:
    result, _ = cast(tuple[jax.Array, jax.Array], generator.apply(
        _variables(weights), _normalized(images), _kept(masks).astype(jnp.float32), z,
        truncation_psi=truncation_psi,
        keep_masks={'first': keep_first, 'second': keep_second}))
    return _composed(images, masks, result)

  return inpaint_by_seeds if entry == SEEDS else inpaint_by_latents


def _variables(weights: Weights) -> dict[str, Any]:
  return traverse_util.unflatten_dict(weights, sep='/')


def _normalized(images: jax.Array) -> jax.Array:
  return images.astype(jnp.float32) / 127.5 - 1.0


def _kept(masks: jax.Array) -> jax.Array:
  return masks == KEPT


def _composed(images: jax.Array, masks: jax.Array, result: jax.Array) -> jax.Array:
  """The result in [-1, 1] as uint8 in the hole, the images elsewhere."""
  filled = jnp.clip(jnp.rint((result + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
  return jnp.where(_kept(masks), images, filled)
