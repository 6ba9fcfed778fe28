"""The training step in microbatches that fit into the memory of the devices.

The memory of a step grows with the images of a microbatch, and its result does not depend on
them but for rounding. Which microbatch is the largest that fits depends on the device.
"""

from collections.abc import Callable
import dataclasses
import os
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
import numpy as np

from mat_jax.nn.model_config import GROUP_SIZE
from mat_jax.runtime import cluster, sharding
from mat_jax.training.step import aot
from mat_jax.training.step.objectives import Batch, Networks
from mat_jax.training.step.settings import Training
from mat_jax.training.step.train_state import TrainState

Tree = Any

# Share of the memory that a compiled step may take: the rest is for workspaces of convolutions,
# prefetched batches and other compiled functions.
_SHARE = 0.9
_OUT_OF_MEMORY = 'RESOURCE_EXHAUSTED'
_CGROUP_LIMIT = '/sys/fs/cgroup/memory.max'


def sizes(batch_size: int, devices: int) -> list[int]:
  """The microbatches of a batch in which every device has whole groups, the largest first."""
  group = GROUP_SIZE * devices
  return [batch_size, *(size for size in range(batch_size - 1, 0, -1)
                        if batch_size % size == 0 and size % group == 0)]


def memory_limit(mesh: Mesh) -> int | None:
  """Bytes of each device that a compiled function may take, None if unknown."""
  device = mesh.local_devices[0]
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('bytes_limit')
  if not hasattr(os, 'sysconf'):
    return None
  limit = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  try:
    with open(_CGROUP_LIMIT, encoding='ascii') as file:
      limit = min(limit, int(file.read()))
  except (OSError, ValueError):  # no container, or 'max'
    pass
  return limit // len(mesh.local_devices)


def memory_of(compiled: jax.stages.Compiled) -> int:
  """Bytes of each device that a compiled function takes, its arguments included."""
  memory = compiled.memory_analysis()
  assert memory is not None  # Every backend of ours says it.
  return (memory.argument_size_in_bytes + memory.output_size_in_bytes
          - memory.alias_size_in_bytes + memory.temp_size_in_bytes)


class Step:
  """The training step, in the largest microbatches that fit unless their size is fixed.

  Their size is found before the first step: by the compiler's estimate of the step's memory, and
  on one process by halving it if the device runs out of memory after all.

  Attributes:
    settings: of the step; the microbatch is final once the first step is done.
  """

  def __init__(self, networks: Networks, settings: Training, mesh: Mesh, is_fixed: bool,
               at_most: int | None = None, chosen: Callable[[int], None] = lambda size: None):
    """Nothing is compiled yet.

    Args:
      networks: modules.
      settings: of the step.
      mesh: devices.
      is_fixed: whether to take the microbatch of the settings as it is.
      at_most: microbatch of the run so far, kept on a larger device for bit-equal results.
      chosen: called with the microbatch when it is found, and again if it has to be smaller.
    """
    self.settings = settings
    self._networks, self._mesh, self._chosen = networks, mesh, chosen
    devices = mesh.devices.size
    self._sizes = [settings.microbatch] if is_fixed else sizes(settings.batch_size, devices)
    if at_most is not None and at_most % devices == 0 and not is_fixed:
      self._sizes = [at_most, *(size for size in self._sizes if size < at_most)]
    self._is_found = self._is_proven = is_fixed
    if is_fixed:
      chosen(settings.microbatch)

  def prepare(self, state: TrainState, features: Tree, batch: Batch,
              freeze_generator: bool = False) -> None:
    """Compiles the step for these arguments, and before the first one finds the microbatch."""
    if not self._is_found:
      self._find(state, features, batch)
      self._is_found = True
    self._program(freeze_generator).prepare(state, features, batch)

  def __call__(self, state: TrainState, features: Tree, batch: Batch,
               freeze_generator: bool = False) -> tuple[TrainState, jax.Array]:
    """The step; see `train_step.make_train_step`. The state is donated."""
    if self._is_proven or len(self._sizes) == 1 or jax.process_count() > 1:
      return self._program(freeze_generator)(state, features, batch)
    # A step that fails has consumed the donated state.
    copy = jax.tree.map(np.array, jax.device_get(state))
    try:
      found = jax.block_until_ready(self._program(freeze_generator)(state, features, batch))
    except jax.errors.JaxRuntimeError as error:
      if _OUT_OF_MEMORY not in str(error):
        raise
      self._take(self._sizes[1:])
      logging.warning('The devices have no room for the step after all; going on with '
                      'microbatches of %d images.', self.settings.microbatch)
      state = sharding.replicate(copy, self._mesh)
      del copy
      self.prepare(state, features, batch, freeze_generator)
      return self(state, features, batch, freeze_generator)
    self._is_proven = True
    return found

  def _program(self, freeze_generator: bool = False) -> aot.AotFunction:
    return aot.compiled_step(self._networks, self.settings, self._mesh, freeze_generator)

  def _take(self, remaining: list[int]) -> None:
    """Goes on with the first of these microbatches."""
    self._sizes = remaining
    self.settings = dataclasses.replace(self.settings, microbatch=remaining[0])
    self._chosen(remaining[0])

  def _find(self, state: TrainState, features: Tree, batch: Batch) -> None:
    """Takes the largest microbatch that the compiler says to fit."""
    self._take(self._sizes)
    limit = memory_limit(self._mesh)
    if len(self._sizes) == 1 or limit is None:
      return
    while True:
      needed = self._needed(state, features, batch)
      budget = int(_SHARE * limit)
      if self._all_agree(needed is not None and needed <= budget):
        assert needed is not None
        logging.info('Microbatches of %d of %d images: the step takes %.1f of %.1f GB of a device.',
                     self.settings.microbatch, self.settings.batch_size, needed / 1e9, limit / 1e9)
        return
      smaller = self._smaller(needed, budget, sum(x.nbytes for x in jax.tree.leaves(state)))
      if not smaller:
        logging.warning(
            'Even microbatches of %d images take %s of %.1f GB of a device; if that fails, set '
            '--config.train.remat=True, or take a smaller batch or model.',
            self.settings.microbatch, 'more than the compiler allows' if needed is None else
            f'{needed / 1e9:.1f} GB', limit / 1e9)
        return
      self._take(smaller)

  def _needed(self, state: TrainState, features: Tree, batch: Batch) -> int | None:
    """Bytes of a device that the step takes; None if it does not even compile for that."""
    try:
      return memory_of(self._program().prepare(state, features, batch))
    except jax.errors.JaxRuntimeError as error:
      if _OUT_OF_MEMORY not in str(error) or jax.process_count() > 1:
        raise
      return None

  def _all_agree(self, fits: bool) -> bool:
    return all(cluster.all_gather('choose the microbatch', int(fits)))

  def _smaller(self, needed: int | None, budget: int, state_bytes: int) -> list[int]:
    """The microbatches that are left to try.

    The memory beside the state shrinks at most in proportion to the microbatch; microbatches that
    would not fit even then are not compiled.
    """
    rest = self._sizes[1:]
    if needed is None or jax.process_count() > 1:
      return rest
    each = (needed - state_bytes) / self._sizes[0]
    return [size for size in rest if state_bytes + each * size <= budget] or rest[-1:]
