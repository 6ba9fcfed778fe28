"""Gradients of a mean over a batch: in microbatches, and data parallel over a mesh."""

from collections.abc import Callable
import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mat_jax.nn.model_config import GROUP_SIZE
from mat_jax.runtime import sharding
from mat_jax.training.step import random_inputs
from mat_jax.training.step.objectives import Metrics, Networks
from mat_jax.training.step.random_inputs import RandomInputs
from mat_jax.training.step.settings import Training
from mat_jax.training.step.train_state import TrainState

Tree = Any
# (params, shared, examples) -> loss and metrics.
Loss = Callable[[Tree, Tree, Tree], tuple[jax.Array, Metrics]]


def mean_gradients(loss: Loss, params: Tree, shared: Tree, examples: Tree,
                   microbatches: int) -> tuple[Tree, Metrics]:
  """Gradients and metrics of a mean over examples, computed in microbatches.

  Args:
    loss: (params, shared, examples) -> loss and metrics, both means over the examples.
    params: what to differentiate by.
    shared: what all examples need.
    examples: arrays [N, ...].
    microbatches: number of equal parts of the examples.

  Returns:
    Gradients and metrics of all examples.
  """
  value = jax.grad(loss, has_aux=True)
  if microbatches == 1:
    return value(params, shared, examples)
  parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), examples)

  def add(total: Tree, part: Tree) -> tuple[Tree, None]:
    return jax.tree.map(jnp.add, total, value(params, shared, part)), None

  shapes = jax.eval_shape(value, params, shared, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(add, zeros, parts)
  return jax.tree.map(lambda x: x / microbatches, total)


def _scaled(loss: Loss) -> Loss:
  """The loss times a factor, which is the second one of what all examples share."""

  def scaled(params: Tree, shared: Tree, examples: Tree) -> tuple[jax.Array, Metrics]:
    value, metrics = loss(params, shared[0], examples)
    return value * shared[1], metrics

  return scaled


@dataclasses.dataclass(frozen=True)
class Context:
  """The context of the phases of a step: what they need beside the state.

  Attributes:
    networks: modules.
    settings: of the step.
    mesh: devices that batches are sharded over; None for a single device.
  """

  networks: Networks
  settings: Training
  mesh: Mesh | None = None

  def shard(self, examples: Tree) -> Tree:
    """Arrays of the global batch, sharded over the devices, each of which computes its part."""
    if self.mesh is None:
      return examples
    return jax.lax.with_sharding_constraint(examples, sharding.by_batch(self.mesh))

  def sample(self, key: jax.Array, state: TrainState) -> RandomInputs:
    """The random inputs of a pass."""
    return self.shard(random_inputs.sample(
        key, self.networks.generator, state.g_buffers, state.augment.probability, self.settings))

  def float32_matmuls(self) -> contextlib.AbstractContextManager[None]:
    """Context in which a TPU computes float32 matmuls to about 16 bits.

    By default a TPU rounds the operands to bfloat16; here it multiplies their high and low parts,
    in three passes. A precision set by the user (`jax_default_matmul_precision`) is respected.
    """
    # JAX's stubs do not know the fields of its config.
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if self._is_tpu and asked is None:
      return jax.default_matmul_precision('high')
    return contextlib.nullcontext()

  @property
  def _is_tpu(self) -> bool:
    return self.mesh is not None and self.mesh.devices.flat[0].platform == 'tpu'

  def gradients(self, loss: Loss, params: Tree, shared: Tree, examples: Tree,
                scale: jax.Array | None = None) -> tuple[Tree, Metrics]:
    """`mean_gradients`, data parallel over the devices.

    Each device sums the gradients of its own images first, so that a single all-reduce of one
    copy of the gradients is all the communication.

    Args:
      loss: see `mean_gradients`.
      params: what to differentiate by.
      shared: what all examples need.
      examples: arrays [N, ...].
      scale: float32 [], a factor on the loss and thus on the gradients; None for none.

    Returns:
      Gradients and metrics of all examples; the metrics are not scaled.
    """
    if scale is not None:
      loss, shared = _scaled(loss), (shared, scale)
    microbatches = self.settings.batch_size // self.settings.microbatch
    devices = 1 if self.mesh is None else self.mesh.devices.size
    # Groups of the minibatch standard deviation that span devices are left to XLA's automatic
    # partitioning. On a TPU even a single device takes shard_map, which `window_kernel` needs.
    if (devices == 1 and not self._is_tpu) or self.settings.microbatch // devices % GROUP_SIZE:
      return mean_gradients(loss, params, shared, examples, microbatches)

    def local(params: Tree, shared: Tree, examples: Tree) -> tuple[Tree, Metrics]:
      found = mean_gradients(loss, params, shared, examples, microbatches)
      return jax.lax.pmean(found, sharding.AXIS)

    everywhere, cut = PartitionSpec(), PartitionSpec(sharding.AXIS)
    return jax.shard_map(
        local, mesh=self.mesh, in_specs=(everywhere, everywhere, cut), out_specs=everywhere,
        check_vma=False)(params, shared, examples)
