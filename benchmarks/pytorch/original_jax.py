"""Our side of `benchmarks.pytorch.original`: does its task for every line on standard input."""

from collections.abc import Callable
import json
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import abstract_step
from mat_jax.inference import completion
from mat_jax.runtime import compilation_cache, sharding
from mat_jax.training.step import aot


def _images(size: int, resolution: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (size, resolution, resolution, 3)).astype(np.float32)
  return image, (rng.random((size, resolution, resolution, 1)) > 0.5).astype(np.float32)


def _random(shapes: Any) -> Any:
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)


def make_inference(size: int, resolution: int) -> Callable[[], None]:
  """A function that completes a batch."""
  made = abstract_step.make(abstract_step.Case(resolution, size, 'float32', 'cpu'))
  variables = jax.device_put(_random(
      {'params': made.state.ema_params, 'buffers': made.state.ema_buffers}))
  image, mask = map(jnp.asarray, _images(size, resolution))
  seeds = jnp.arange(size, dtype=jnp.uint32)

  def run() -> None:
    jax.block_until_ready(
        completion.complete(made.networks.generator, variables, image, mask, seeds))

  return run


def make_training(size: int, resolution: int) -> Callable[[], None]:
  """A function that does a step, without R1 for the first fifteen calls."""
  mesh = sharding.make_mesh()
  made = abstract_step.make(abstract_step.Case(resolution, size, 'float32', 'cpu'), mesh)
  networks = made.networks.replace(feature_network='vgg19')
  state = aot.compiled_create(networks, made.settings, mesh)(jax.random.key(0))
  # R1 is due at every sixteenth step, from the first one on.
  state = state.replace(step=state.step + 1)
  weights = jax.tree.map(lambda x: 0.02 * x, _random(abstract_step.vgg_shapes('vgg19')))
  weights = jax.device_put(weights, sharding.replicated(mesh))
  image, mask = _images(size, resolution)
  batch = sharding.to_global({'image': image, 'mask': mask}, mesh)
  step = aot.compiled_step(networks, made.settings, mesh)

  def run() -> None:
    nonlocal state
    state, _ = step(state, weights, batch)
    jax.block_until_ready(state)

  return run


def main() -> None:
  task = json.loads(sys.argv[1])
  if task['cache']:
    compilation_cache.enable(task['cache'])
  make = make_training if task['task'] == 'training' else make_inference
  run = make(task['batch_size'], task['resolution'])
  print('ready', flush=True)
  for _ in sys.stdin:
    begun = time.perf_counter()
    run()
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({'seconds': seconds, 'peak_mib': peak / 1024}), flush=True)


if __name__ == '__main__':
  main()
