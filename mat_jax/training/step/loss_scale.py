"""Dynamic loss scaling: gradients in float16 without underflow (arXiv 1710.03740, section 3.2).

The losses of Gmain and Dmain are multiplied by a factor of their own, and the gradients divided by
it in float32. When they are not finite, the phase is skipped: parameters, optimiser and averages
stay as they were, and the factor is halved. R1 is computed in float32 and needs none.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
from flax.training.dynamic_scale import DynamicScale
import jax
import jax.numpy as jnp
import optax

Tree = Any

NETWORKS = ('g', 'd')


class LossScale(flax.struct.PyTreeNode):
  """The loss scale of one network.

  Attributes:
    dynamic: the factor, float32 [], and the number of finite gradients in a row, int32 [], after
      which Flax doubles it.
    skipped: int32 [], phases that were skipped since the beginning of the run.
  """

  dynamic: DynamicScale
  skipped: jax.Array


LossScales = dict[str, LossScale]


def fresh() -> LossScales:
  """The loss scales of a new run, by network."""
  return {network: LossScale(
      DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(DynamicScale.scale)), jnp.int32(0))
          for network in NETWORKS}


def factor(scales: LossScales | None, network: str) -> jax.Array | None:
  """What to multiply the loss of a network by; None without loss scaling."""
  return None if scales is None else jnp.asarray(scales[network].dynamic.scale)


def norm(scales: LossScales | None, network: str, gradients: Tree) -> jax.Array:
  """The L2 norm, float32 [], of the gradients of a loss, given those of the loss times `factor`."""
  scaled = optax.tree.norm(gradients)
  return scaled if scales is None else scaled / scales[network].dynamic.scale


def apply(state: Tree, network: str, gradients: Tree, update: Callable[[Tree], Tree]) -> Tree:
  """Updates a state, or only its loss scale if the gradients are not finite.

  Args:
    state: a `TrainState`.
    network: 'g' or 'd', of whose parameters the gradients are.
    gradients: of the loss times `factor`, in float32, the same on every device.
    update: gradients -> the updated state; the gradients are those of the loss itself.

  Returns:
    The next state; without loss scaling what `update` returns.
  """
  if state.loss_scale is None:
    return update(gradients)
  scale, is_finite, gradients = _unscaled(state.loss_scale[network], gradients)
  chosen = _choose(is_finite, update(gradients), state)
  return chosen.replace(loss_scale={**state.loss_scale, network: scale})


def unless_skipped(before: Tree, state: Tree, updated: Tree) -> Tree:
  """`updated`, or `state` if the generator's phase was skipped since the state `before`."""
  if state.loss_scale is None:
    return updated
  counts = [x.loss_scale['g'].skipped for x in (before, state)]
  return _choose(counts[0] == counts[1], updated, state)


def _choose(condition: jax.Array, state: Tree, other: Tree) -> Tree:
  return jax.tree.map(
      lambda a, b: a if a is b else jnp.where(condition, a, b), state, other)


def _unscaled(scale: LossScale, gradients: Tree) -> tuple[LossScale, jax.Array, Tree]:
  """The next loss scale, whether the gradients are finite, and the unscaled gradients."""
  # Flax's rule is only there for functions to differentiate: here a linear one, whose gradients
  # are known. The factor is a power of two, so that they stay the same to the bit.
  known = jax.tree.map(lambda g: g / scale.dynamic.scale, gradients)

  def linear(at: Tree) -> jax.Array:
    return sum(map(jnp.vdot, jax.tree.leaves(known), jax.tree.leaves(at)), jnp.float32(0.0))

  dynamic, is_finite, _, gradients = scale.dynamic.value_and_grad(linear)(gradients)
  skipped = scale.skipped + ~is_finite
  return LossScale(dynamic, skipped), is_finite, gradients


def summary(scales: LossScales | None) -> dict[str, float]:
  """What a tick reports: the factors, and the numbers of skipped phases; nothing without any."""
  found: dict[str, float] = {}
  for network, scale in sorted((scales or {}).items()):
    found[f'loss_scale/{network}'] = float(scale.dynamic.scale)
    found[f'loss_scale/skipped_steps_{network}'] = int(scale.skipped)
  return found
