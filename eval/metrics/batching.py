"""Batches of the size that fits: halved when memory runs out."""

from collections.abc import Callable, Mapping
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
import numpy as np

from mat_jax.runtime import sharding

_OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED'


class BatchSizeFinder:
  """Calls a function of a batch on the devices, in parts once the whole does not fit.

  The first batch that the memory does not suffice for is cut in halves, these again if
  need be, and so are all later ones. On several processes nothing is cut, as one of them
  alone cannot: the error is raised.
  """

  def __init__(self, function: Callable[[dict[str, jax.Array]], Any], mesh: Mesh):
    """Wraps `function`: {name: [n, ...]} on the mesh -> tree of [n, ...], replicated."""
    self._function, self._mesh, self._parts = function, mesh, 1

  def __call__(self, batch: Mapping[str, np.ndarray]) -> Any:
    """Returns the results of a batch on the host.

    Args:
      batch: name -> this process's part of the batch; its size may be any on one process
        (it is filled up to what the devices divide) and has to be equal on several.
    """
    while True:
      try:
        return self._in_parts(batch)
      except jax.errors.JaxRuntimeError as error:
        if _OUT_OF_MEMORY not in str(error) or not self._can_halve(_size(batch)):
          raise
      self._parts *= 2
      logging.warning('A batch of %d images does not fit into the memory; going on with %d at a '
                      'time.', _size(batch), self._length(_size(batch)))

  def _in_parts(self, batch: Mapping[str, np.ndarray]) -> Any:
    size = _size(batch)
    length = self._length(size)
    done = [self._one({name: value[start:start + length] for name, value in batch.items()}, length)
            for start in range(0, size, length)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *done)

  def _one(self, part: dict[str, np.ndarray], length: int) -> Any:
    size = _size(part)
    filled = {name: np.concatenate([value, np.repeat(value[-1:], length - size, 0)])
              if size < length else value for name, value in part.items()}
    out = jax.device_get(self._function(sharding.to_global(filled, self._mesh)))
    return jax.tree.map(lambda x: x[:size], out) if size < length else out

  def _length(self, size: int) -> int:
    """Images of a part: a multiple of the devices of this process."""
    if jax.process_count() > 1:
      return size
    devices = self._mesh.devices.size
    return -(-size // (self._parts * devices)) * devices

  def _can_halve(self, size: int) -> bool:
    return jax.process_count() == 1 and self._length(size) > self._mesh.devices.size


def _size(batch: Mapping[str, np.ndarray]) -> int:
  return len(next(iter(batch.values())))
