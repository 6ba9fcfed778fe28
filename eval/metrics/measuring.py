"""All metrics of pairs of images, and features of images, on the devices.

`measure` is the pure function; `measure_batches` and `feature_batches` run it jitted on
batches of NumPy arrays, sharded over the devices.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from convert import feature_nets as feature_weights
from eval.metrics import batching, feature_networks, image_metrics, lpips_distance
from mat_jax.errors import UserError
from mat_jax.runtime import sharding
from mat_jax.training.step import aot

LPIPS_NETS = ('alex', 'vgg')
REAL = 'real'
HOLE = 'hole'


class Models(NamedTuple):
  """Weights of the networks that images are compared with.

  Attributes:
    lpips: 'alex' or 'vgg' -> parameters.
    features: network of `eval.metrics.feature_networks` -> parameters.
  """

  lpips: Mapping[str, Any]
  features: Mapping[str, Any]


def load_lpips(names: str) -> dict[str, Any]:
  """Reads the LPIPS networks named, joined by '+'.

  Raises:
    UserError: an unknown name, or weights that are missing.
  """
  chosen = [name for name in names.split('+') if name]
  if unknown := [name for name in chosen if name not in LPIPS_NETS]:
    raise UserError(f'there is no LPIPS network {unknown[0]!r}; choose of '
                    f"{', '.join(LPIPS_NETS)}, or both joined by '+'")
  return {name: feature_weights.load_lpips(name) for name in chosen}


def measure(models: Models, real: jax.Array, results: Mapping[str, jax.Array],
            hole: jax.Array | None) -> dict[str, Any]:
  """Compares results with the real images.

  Args:
    models: networks; none of either kind leaves their metrics out.
    real: uint8 [N, H, W, 3].
    results: system -> uint8 [N, H, W, 3].
    hole: float [N, H, W, 1], 1 in the hole; None leaves metrics over the hole out.

  Returns:
    'metrics': {system: {metric: float32 [N]}}; 'features': {system: {network: float32
    [N, d]}}.
  """
  metrics = {system: _pixel_metrics(real, result, hole) for system, result in results.items()}
  for net, params in models.lpips.items():
    for system, result in results.items():
      metrics[system][f'lpips_{net}'] = lpips_distance.lpips_distance(
          params, _signed(real), _signed(result), net)
  return {'metrics': metrics, 'features': {
      system: _features(models.features, result) for system, result in results.items()}}


def measure_samples(models: Models, real: jax.Array, samples: jax.Array) -> dict[str, jax.Array]:
  """Compares several completions of each pair of image and mask.

  Args:
    models: networks, of which those of LPIPS are used.
    real: uint8 [N, H, W, 3].
    samples: uint8 [S, N, H, W, 3], S > 1.

  Returns:
    {metric: float32 [N]}: the mean LPIPS between two completions (diversity), and the least one
    from a completion to the real image (best).
  """
  metrics = {}
  for net, params in models.lpips.items():
    found = lpips_distance.pairwise(
        params, jnp.concatenate([_signed(real)[None], _signed(samples)]), net)
    count = len(samples)
    metrics[f'diversity_{net}'] = jnp.sum(found[1:, 1:], (0, 1)) / (count * (count - 1))
    metrics[f'best_lpips_{net}'] = jnp.min(found[0, 1:], 0)
  return metrics


def _pixel_metrics(real: jax.Array, result: jax.Array,
                   hole: jax.Array | None) -> dict[str, jax.Array]:
  metrics = {}
  for name in ('psnr', 'ssim', 'l1'):
    function = getattr(image_metrics, name)
    metrics[name] = function(real, result)
    if hole is not None:
      metrics[f'{name}_hole'] = function(real, result, hole)
  return metrics


def _signed(images: jax.Array) -> jax.Array:
  return images.astype(jnp.float32) / 127.5 - 1


def _features(networks: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
  return {name: feature_networks.extract(name, params, images) for name, params in networks.items()}


def measure_batches(models: Models, mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], Any]:
  """A function that measures batches of {'real', system, ..., perhaps 'hole'}; see `measure`."""
  models = sharding.replicate(models, mesh)

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def step(models: Models, batch: dict[str, jax.Array]) -> dict[str, Any]:
    results = {name: value for name, value in batch.items() if name not in (REAL, HOLE)}
    return measure(models, batch[REAL], results, batch.get(HOLE))

  return batching.BatchSizeFinder(functools.partial(step, models), mesh)


def feature_batches(models: Models, mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], Any]:
  """A function of batches of {'image': [n, H, W, 3], ...}, uint8 or float in [-1, 1].

  It returns {'features': {network: float32 [n, d]}} and what else is in the batch.
  """
  networks = sharding.replicate(dict(models.features), mesh)

  def step(networks: Mapping[str, Any], batch: dict[str, jax.Array]) -> dict[str, Any]:
    rest = {name: value for name, value in batch.items() if name != 'image'}
    image = batch['image']
    if image.dtype != jnp.uint8:
      image = image_metrics.to_uint8(image)
    return {'features': _features(networks, image)} | rest

  compiled = aot.across_processes(
      jax.jit(step, out_shardings=sharding.replicated(mesh)), 'the feature networks')
  return batching.BatchSizeFinder(functools.partial(compiled, networks), mesh)
