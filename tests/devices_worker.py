"""Compares the training step on several devices; run by `devices_test`, prints JSON.

  python -m tests.devices_worker gradients|losses|collectives|forms

The devices are eight parts of the host: XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import functools
import json
import re
import sys

import jax
import numpy as np

from configs import demo
from mat_jax import phases, programs, settings, sharding, train_step

BATCH = 32  # four images on each of eight devices
FORM = 'cpu'  # what a CPU takes by itself; XLA's kernel gradients are less exact there


def make_run(**train):
  """Networks and settings of the demo's size with everything that training can do."""
  config = demo.get_config()
  config.model.formulations = FORM
  config.train.batch_size = BATCH
  config.train.r1_interval = 2
  config.train.lecam_weight = 0.1
  config.augment.pipeline = 'bgc'
  config.augment.probability = 0.5
  config.train.update(train)
  networks = phases.Networks(
      settings.generator_from_config(config.model, config.train.remat),
      settings.discriminator_from_config(config.model, config.train.remat))
  return networks, settings.training_from_config(config)


def make_batch():
  """Images and masks, the same for every number of devices."""
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (BATCH, 64, 64, 3)).astype(np.float32)
  mask = np.ones((BATCH, 64, 64, 1), np.float32)
  mask[:, 16:48, 16:40] = 0
  return {'image': image, 'mask': mask}


def gradients(devices, state, **train):
  """Gradients and losses of the three phases on so many devices."""
  networks, options = make_run(**train)
  mesh = sharding.make_mesh(jax.devices()[:devices])
  context = Recorder(networks, options, mesh)

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def run(state, batch):
    key = jax.random.key(1)
    found = {}
    for name, update in (
        ('Gmain', lambda c: train_step.update_generator(state, None, batch, key, c)),
        ('Dmain', lambda c: train_step.update_discriminator(state, batch, key, c)),
        ('Dreg', lambda c: train_step.regularize_discriminator(state, batch, key, c))):
      update(context)
      found[name] = context.last
    return found

  state = jax.device_put(state, sharding.replicated(mesh))
  return jax.device_get(run(state, sharding.to_global(make_batch(), mesh)))


class Recorder(train_step.Context):
  """A context that keeps the gradients that an update computes."""

  def gradients(self, *arguments):
    found = super().gradients(*arguments)
    object.__setattr__(self, 'last', found)
    return found


def compare(expected, found):
  """Largest distance of a gradient over its norm, and of a loss over its size, by phase."""
  result = {}
  for phase, (tree, metrics) in expected.items():
    distances = {}
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(tree),
                            jax.tree.leaves(found[phase][0]), strict=True):
      name = '/'.join(key.key for key in path)
      norm = np.linalg.norm(np.float64(a))
      # The true gradient of these is zero: adding to all keys changes no attention.
      if name.endswith('attn/k/bias'):
        continue
      distances[name] = float(np.linalg.norm(np.float64(a) - b) / norm) if norm else 0.0
    worst = max(distances, key=distances.get)
    losses = max(abs(float(metrics[name] - found[phase][1][name])) / max(1e-3, abs(float(value)))
                 for name, value in metrics.items() if name.startswith('loss/'))
    result[phase] = {'gradient': distances[worst], 'parameter': worst, 'loss': losses}
  return result


def initial_state():
  """A state whose networks have been trained for a step, so that no parameter is zero."""
  networks, options = make_run()
  mesh = sharding.make_mesh(jax.devices()[:1])
  state = programs.compiled_create(networks, options, mesh)(jax.random.key(0))
  rng = np.random.default_rng(1)

  def disturb(x):
    return x + 0.1 * rng.standard_normal(x.shape).astype(np.float32)

  state = jax.device_get(state)
  return state.replace(g_params=jax.tree.map(disturb, state.g_params),
                       d_params=jax.tree.map(disturb, state.d_params))


def run_gradients():
  state = initial_state()
  expected = gradients(1, state)
  return {devices: compare(expected, gradients(devices, state)) for devices in (2, 8)}


def run_forms():
  """Microbatches, and blocks computed again, against the plain step."""
  state = initial_state()
  expected = gradients(1, state)
  return {'microbatch 8': compare(expected, gradients(1, state, microbatch=8)),
          'microbatch 16 on 2': compare(expected, gradients(2, state, microbatch=16)),
          'remat': compare(expected, gradients(1, state, remat=True))}


def run_losses():
  """Losses of the fifth step."""
  networks, options = make_run()
  found = {}
  for devices in (1, 2, 8):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    state = programs.compiled_create(networks, options, mesh)(jax.random.key(0))
    step = programs.compiled_step(networks, options, mesh)
    for _ in range(5):
      state, losses = step(state, None, sharding.to_global(make_batch(), mesh))
    found[devices] = np.asarray(losses).tolist()
  return found


def run_collectives():
  """Kinds and bytes of the collectives of a step on eight devices."""
  networks, options = make_run()
  mesh = sharding.make_mesh()
  state = jax.eval_shape(programs.compiled_create(networks, options, mesh), jax.random.key(0))
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in make_batch().items()}
  text = programs.compiled_step(networks, options, mesh).lower(
      state, None, batch).compile().as_text()
  found = {}
  for shapes, kind in re.findall(
      r'= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)'
      r'(?:-start)?\(', text):
    sizes = [np.prod([int(n) for n in dims.split(',') if n])
             for dims in re.findall(r'f32\[([\d,]*)\]', shapes)]
    found[kind] = found.get(kind, 0) + 4 * int(sum(sizes))
  count = {name: sum(x.size for x in jax.tree.leaves(getattr(state, name)))
           for name in ('g_params', 'd_params')}
  return {'bytes': found, 'gradients': 4 * (count['g_params'] + 2 * count['d_params'])}


if __name__ == '__main__':
  jax.config.update('jax_default_matmul_precision', 'float32')
  tasks = {'gradients': run_gradients, 'losses': run_losses, 'collectives': run_collectives,
           'forms': run_forms}
  print(json.dumps(tasks[sys.argv[1]]()))
