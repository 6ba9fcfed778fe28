"""Compares the training step on several devices; run by `devices_test`, prints JSON.

  python -m tests.support.devices_worker gradients|losses|collectives|variants
  python -m tests.support.devices_worker processes HOST:PORT PROCESS_ID

The devices are parts of the host: XLA_FLAGS=--xla_force_host_platform_device_count=8, or 2 in
each of two processes.
"""

import functools
import json
import sys

from flax import traverse_util
import jax
import numpy as np

from benchmarks import hlo_text
from configs import tiny
from input_pipeline import from_config
from mat_jax.nn import model_config
from mat_jax.runtime import cluster, compilation_cache, sharding
from mat_jax.training.step import aot, objectives, settings, train_step
from mat_jax.training.step.gradients import Context

BATCH = 32  # four images on each of eight devices


def make_run(implementations='cpu', resolution=64, **train):
  """Networks and settings of the size of tiny.py with everything that training can do.

  XLA's own kernel gradients, of the other implementations, are less exact on a CPU, and faster compiled.
  """
  config = tiny.get_config()
  config.implementations, config.model.resolution = implementations, resolution
  config.train.batch_size = BATCH
  config.train.r1_interval = 2
  config.train.lecam_weight = 0.1
  config.augment.pipeline = 'bgc'
  config.augment.probability = 0.5
  config.train.update(train)
  networks = objectives.Networks(
      model_config.generator_from_config(config.model, implementations, config.train.remat),
      model_config.discriminator_from_config(config.model, implementations, config.train.remat))
  return networks, settings.training_from_config(config)


@functools.cache
def make_batch():
  """ImageDataset and masks, the same for every number of devices."""
  config = tiny.get_config()
  config.train.batch_size = BATCH
  batch = next(from_config.training_stream(config, *from_config.open_training(config), 0, 0, 1))
  return {name: np.array(value) for name, value in batch.items()}


def gradients(devices, **train):
  """A function of the state: gradients and losses of the three phases, compiled once."""
  networks, options = make_run(**train)
  mesh = sharding.make_mesh(devices)
  context = Recorder(networks, options, mesh)

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def run(state, batch):
    key = jax.random.key(1)
    found = {}
    for name, update in (
        ('Gmain', lambda c: train_step.update_generator(state, None, batch, key, c)),
        ('Dmain', lambda c: train_step.update_discriminator(state, None, batch, key, c)),
        ('Dreg', lambda c: train_step.regularize_discriminator(state, batch, key, c))):
      update(context)
      found[name] = context.last
    return found

  batch = make_batch()
  spans_processes = len(devices) > len(jax.local_devices())
  if spans_processes:
    share = BATCH // jax.process_count()
    start = share * jax.process_index()
    batch = {name: x[start:start + share] for name, x in batch.items()}
  if spans_processes:
    run = aot.AotFunction(run, 'the gradients')

  def gradients_of(state):
    return jax.device_get(run(sharding.replicate(state, mesh), sharding.to_global(batch, mesh)))

  return gradients_of


class Recorder(Context):
  """A context that keeps the gradients that an update computes."""

  def gradients(self, *arguments, **trees):
    found = super().gradients(*arguments, **trees)
    object.__setattr__(self, 'last', found)
    return found


def compare(expected, found):
  """Largest distance of a gradient over its norm, and of a loss over its size, by phase.

  Also the share of parameters whose distance is above 1e-5.

  Two kinds of parameters cannot be compared so. The true gradient of every `attn/k/bias` is
  zero, as adding to all keys changes no attention: they are left out. A `noise_strength` is
  one number for a whole map, and its gradient a sum that nearly cancels: the norm is that of
  the bias of its layer, whose terms are as large.
  """
  result = {}
  for phase, (tree, metrics) in expected.items():
    ours, others = (traverse_util.flatten_dict(jax.tree.map(np.float64, x))
                    for x in (tree, found[phase][0]))
    distances = {}
    for path, gradient in ours.items():
      if path[-3:] == ('attn', 'k', 'bias'):
        continue
      scale = ours[(*path[:-1], 'bias')] if path[-1] == 'noise_strength' else gradient
      if norm := np.linalg.norm(scale):
        distances['/'.join(path)] = float(np.linalg.norm(gradient - others[path]) / norm)
    worst = max(distances, key=distances.get)
    above = [name for name, distance in distances.items() if distance > 1e-5]
    losses = max(abs(float(value - found[phase][1][name])) / max(1e-3, abs(float(value)))
                 for name, value in metrics.items() if name.startswith('loss/'))
    result[phase] = {'gradient': distances[worst], 'parameter': worst, 'loss': losses,
                     'above 1e-5': len(above) / len(distances)}
  return result


def initial_state():
  """Networks away from their symmetric beginning, where more gradients cancel."""
  networks, options = make_run()
  mesh = sharding.make_mesh(jax.local_devices()[:1])
  state = aot.compiled_create(networks, options, mesh)(jax.random.key(0))
  rng = np.random.default_rng(1)

  def disturb(x):
    return x + 0.1 * rng.standard_normal(x.shape).astype(np.float32)

  state = jax.device_get(state)
  return state.replace(g_params=jax.tree.map(disturb, state.g_params),
                       d_params=jax.tree.map(disturb, state.d_params))


def _devices(count):
  return jax.devices()[:count]


def disturbed(state, seed=0):
  """The state, its parameters with rounding errors."""
  rng = np.random.default_rng(seed)

  def disturb(x):
    return (x * (1 + 1e-7 * rng.standard_normal(x.shape))).astype(np.float32)

  state = jax.device_get(state)
  return state.replace(g_params=jax.tree.map(disturb, state.g_params),
                       d_params=jax.tree.map(disturb, state.d_params))


def run_gradients():
  """Several devices against one; also what rounding errors of the parameters change there."""
  return _compared_with_one({count: gradients(_devices(count)) for count in (2, 8)})


def run_variants():
  """Microbatches, and blocks computed again, against the plain step, with `run_gradients`' scale."""
  return _compared_with_one({
      'microbatch 8': gradients(_devices(1), microbatch=8),
      'microbatch 16 on 2': gradients(_devices(2), microbatch=16),
      'remat': gradients(_devices(1), remat=True)})


def _compared_with_one(functions):
  state, one = initial_state(), gradients(_devices(1))
  expected = one(state)
  return {'disturbed': compare(expected, one(disturbed(state))),
          **{name: compare(expected, function(state)) for name, function in functions.items()}}


def run_losses():
  """Losses of the first steps on several devices, and on one from parameters with rounding errors."""
  networks, options = make_run()
  found = {}
  for name, count in (('1', 1), ('1 disturbed', 1), ('2', 2), ('8', 8)):
    mesh = sharding.make_mesh(_devices(count))
    state = aot.compiled_create(networks, options, mesh)(jax.random.key(0))
    if 'disturbed' in name:
      state = sharding.replicate(disturbed(state), mesh)
    step, found[name] = aot.compiled_step(networks, options, mesh), []
    for _ in range(4):
      state, losses = step(state, None, sharding.to_global(make_batch(), mesh))
      found[name].append(np.asarray(losses).tolist())
  return found


def run_collectives():
  """Kinds and bytes of the collectives of a step on eight devices."""
  networks, options = make_run('compact', resolution=32)
  mesh = sharding.make_mesh()
  state = jax.eval_shape(aot.compiled_create(networks, options, mesh), jax.random.key(0))
  batch = {name: jax.ShapeDtypeStruct((BATCH, 32, 32, channels), np.float32)
           for name, channels in (('image', 3), ('mask', 1))}
  text = aot.compiled_step(networks, options, mesh).lower(
      state, None, batch).compile().as_text()
  found = {kind: entry['bytes'] for kind, entry in hlo_text.collectives(text).items()}
  count = {name: sum(x.size for x in jax.tree.leaves(getattr(state, name)))
           for name in ('g_params', 'd_params')}
  return {'bytes': found, 'gradients': 4 * (count['g_params'] + 2 * count['d_params'])}


def run_processes(coordinator, process_id):
  """Gradients on four devices of two processes against those on one device."""
  cluster.join(coordinator, 2, int(process_id))
  compilation_cache.enable(None, jax.process_index())
  with cluster.ending_together():
    state = initial_state()
    found, compared = gradients(jax.devices())(state), {}
    if jax.process_index() == 0:
      compared = {'2 processes': compare(gradients(jax.local_devices()[:1])(state), found)}
    print(json.dumps(compared))


if __name__ == '__main__':
  jax.config.update('jax_default_matmul_precision', 'float32')
  tasks = {'gradients': run_gradients, 'losses': run_losses, 'collectives': run_collectives,
           'variants': run_variants, 'processes': run_processes}
  print(json.dumps(tasks[sys.argv[1]](*sys.argv[2:])))
