"""Data parallelism: one mesh axis over which batches are sharded (today's pjit).

Explicit axis types would have to be carried through the window reshapes, hence
`AxisType.Auto`: XLA propagates the shardings of state and batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from mat_jax.errors import UserError

AXIS = 'data'


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A one-dimensional mesh over `devices`, by default all of them.

  On several TPU slices the devices of a slice are neighbours, in the order of its
  network, so that the sum of gradients runs within the slices first.

  Raises:
    UserError: slices of different size.
  """
  devices = devices or jax.devices()
  slices = by_slice(devices)
  if len(slices) > 1:
    ordered = mesh_utils.create_hybrid_device_mesh((len(slices[0]),), (len(slices),), devices)
    return Mesh(ordered, (AXIS,), axis_types=(AxisType.Auto,))
  return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def by_slice(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
  """The devices of every TPU slice, one group where there are no slices.

  Raises:
    UserError: slices of different size, which could not share a batch equally.
  """
  groups: dict[int, list[jax.Device]] = {}
  for device in devices:
    groups.setdefault(getattr(device, 'slice_index', None) or 0, []).append(device)
  sizes = sorted({len(group) for group in groups.values()})
  if len(sizes) > 1:
    raise UserError(f'the slices have {sizes[0]} to {sizes[-1]} devices; they have to be of one '
                    'size')
  return [groups[index] for index in sorted(groups)]


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of parameters: a copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts the same arrays on every device.

  On several processes `jax.device_put` begins with a collective that compares the arrays, which
  times out when the processes arrive at different times; here they are not compared.

  Args:
    tree: of arrays, the same on every process; what is on the devices already stays there.
    mesh: the devices.
  """
  target = replicated(mesh)
  if jax.process_count() == 1:
    return jax.device_put(tree, target)

  def put(x: Any) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(target, x.ndim):
      return x
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, target, lambda index: host[index])

  return jax.tree.map(put, tree)


def by_batch(mesh: Mesh) -> NamedSharding:
  """The sharding of batches: the first axis is sharded over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
  """Raises UserError unless the devices divide the batch.

  Args:
    batch_size: global batch.
    mesh: the devices.
    field: config field to name in the message.
  """
  count = mesh.devices.size
  if batch_size < 1 or batch_size % count:
    raise UserError(f'{field} is {batch_size}, which {count} devices do not divide; '
                    f'set --config.{field} to a multiple of {count}')


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Puts this process's part of a global batch on its devices.

  Args:
    batch: name -> [local batch, ...].
    mesh: the devices.

  Returns:
    name -> [global batch, ...], sharded over the devices.
  """
  sharding = by_batch(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
          for name, value in batch.items()}
