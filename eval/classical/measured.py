"""Classical methods measured on batches, as the evaluation measures MAT's results."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from eval.classical import methods as classical
from eval.classical.methods import Fill
from eval.metrics import batching, measuring
from eval.metrics.measuring import Models
from mat_jax.runtime import image_grid, sharding
from mat_jax.training.step import aot

_FILLED = 'filled'


def measurer(methods: Mapping[str, Fill], models: Models,
             mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], dict[str, dict[str, Any]]]:
  """Returns the function that fills the holes of a batch with each method and measures.

  One program serves all methods, so that more of them take neither more memory nor more time to
  compile. The pictures are filled on the host, those of each process on itself.

  Args:
    methods: name -> function of `methods.load`.
    models: networks to compare with, on the devices.
    mesh: the devices.

  Returns:
    Function of this process's part of a batch, 'image' [n, H, W, 3] in [-1, 1] and 'mask'
    [n, H, W, 1], 1 where pixels are kept. Its result, of all processes' parts: 'metrics' {name:
    {metric: float32 [n]}}, 'features' {name: {network: float32 [n, d]}} and 'pictures' {name:
    uint8 [n, H, W, 3]}.
  """
  measure = batching.BatchSizeFinder(functools.partial(_make_step(mesh), models), mesh)

  def measure_batch(batch: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    original, mask = image_grid.to_uint8(batch['image']), batch['mask']
    found: dict[str, dict[str, Any]] = {'metrics': {}, 'features': {}, 'pictures': {}}
    for name, pictures in classical.fill_batch(methods, original, mask[..., 0] == 0).items():
      out = measure({measuring.REAL: original, _FILLED: pictures,
                     measuring.HOLE: np.float32(1) - mask})
      for part, systems in found.items():
        systems[name] = out[part][_FILLED]
    return found

  return measure_batch


@functools.lru_cache(maxsize=4)
def _make_step(mesh: Mesh) -> Callable[..., Any]:
  """Measures a batch on the devices; results are replicated, and so are the pictures."""

  def step(models: Models, batch: dict[str, jax.Array]) -> dict[str, Any]:
    filled = {_FILLED: batch[_FILLED]}
    return measuring.measure(models, batch[measuring.REAL], filled,
                             batch[measuring.HOLE]) | {'pictures': filled}

  return aot.across_processes(
      jax.jit(step, out_shardings=sharding.replicated(mesh)), 'measuring classical methods')
