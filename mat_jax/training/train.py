"""Entry point of training: opens and checks everything that a run needs, and runs the loop."""

from collections.abc import Callable
import contextlib

from absl import logging
import jax
from jax.sharding import Mesh
import ml_collections

from mat_jax.checkpoints.resume import parse_accepted
from mat_jax.errors import UserError
from mat_jax.runtime import sharding, workdir_lock
from mat_jax.runtime.preemption import Preemption, Processes
from mat_jax.training import start
from mat_jax.training.inputs import Inputs
from mat_jax.training.loop import Loop, Run, Schedule, Validate, is_unreported
from mat_jax.training.step import microbatch
from mat_jax.training.step import settings as settings_lib
from mat_jax.training.step.train_state import TrainState
from mat_jax.training.summary_writer import SummaryWriter


def train(config: ml_collections.ConfigDict, workdir: str, open_inputs: Callable[[], Inputs],
          validate: Validate | None = None) -> TrainState:
  """Trains until `config.train.total_kimg`, resuming what the workdir holds.

  SIGTERM ends it early, with a checkpoint.

  Args:
    config: see `configs/base.py`.
    workdir: folder for checkpoints, TensorBoard events and `stats.jsonl`.
    open_inputs: opens images, masks and the network of the perceptual losses.
    validate: computes metrics of the averaged generator at every snapshot.

  Returns:
    The final state.

  Raises:
    UserError: data, config, workdir and devices do not fit together, another run has the
      workdir, or the losses are not finite.
  """
  processes = Processes() if jax.process_count() > 1 else None
  with Preemption(config.train.preemption_secs, processes) as preemption:
    return _train(config, workdir, open_inputs, validate, preemption)


def _train(config: ml_collections.ConfigDict, workdir: str, open_inputs: Callable[[], Inputs],
           validate: Validate | None, preemption: Preemption) -> TrainState:
  mesh, inputs = sharding.make_mesh(), open_inputs()
  config = start.with_model_of(config, workdir)
  settings = settings_lib.training_from_config(config)
  check(config, mesh)
  networks = start.make_networks(config, inputs.features)
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(workdir_lock.hold(workdir))
    checkpoints = stack.enter_context(contextlib.closing(
        start.open_checkpoints(config, workdir, inputs.num_images)))
    state = start.initial_state(config, networks, settings, mesh, checkpoints)
    writer = stack.enter_context(contextlib.closing(_open_writer(config, workdir, state)))
    if int(state.step) == 0:
      writer.write_texts(0, {'config': _indented(config)})
    stream = inputs.open_stream(int(state.images_seen) // config.train.batch_size,
                                jax.process_index(), jax.process_count())
    logging.info('Training on %d images, %d devices, batch %d.', inputs.num_images,
                 mesh.devices.size, config.train.batch_size)
    step = microbatch.Step(
        networks, settings, mesh, config.train.microbatch != settings_lib.AUTO,
        start.microbatch_until_now(config, workdir),
        lambda size: checkpoints.describe(microbatch=size))
    run = Run(config, mesh, networks, step,
              sharding.replicate(inputs.features and inputs.features.params, mesh), stream,
              inputs.samples, validate, checkpoints, writer, preemption)
    return Loop(run, int(state.step)).run(state)


def _open_writer(config: ml_collections.ConfigDict, workdir: str,
                 state: TrainState) -> SummaryWriter:
  """The summary writer of the workdir, with its logs as they were when the state was saved."""
  step = int(state.step)
  last = step if step else None
  if step and Schedule.from_config(config.train).ends_tick(step) and is_unreported(state):
    last = step - 1  # it was saved before its report was complete
  return SummaryWriter(workdir, last, writes=jax.process_index() == 0)


def check(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
  """Raises UserError for fields that would otherwise fail only after the workdir was made."""
  sharding.check_batch_size(config.train.batch_size, mesh, 'train.batch_size')
  sharding.check_batch_size(settings_lib.microbatch(config), mesh, 'train.microbatch')
  sharding.check_batch_size(config.eval.batch_size, mesh, 'eval.batch_size')
  start.best_from_config(config.train)
  parse_accepted(config.accept_changes)
  for field in ('total_kimg', 'kimg_per_tick', 'preemption_secs'):
    if config.train[field] <= 0:
      raise UserError(f'train.{field} is {config.train[field]}; give a positive number')
  for field in ('discriminator_warmup_kimg', 'freeze_d_blocks', 'lecam_weight', 'profile_steps',
                'adversarial_weight', 'adversarial_stage1_weight'):
    if config.train[field] < 0:
      raise UserError(f'train.{field} is {config.train[field]}; give 0 or more')
  for field in ('snapshot_ticks', 'r1_interval', 'max_to_keep', 'max_nonfinite_steps'):
    if config.train[field] < 1:
      raise UserError(f'train.{field} is {config.train[field]}; give a number >= 1')
  factor = config.train.feature_downsample
  if factor < 1 or config.model.resolution % factor:
    raise UserError(f'train.feature_downsample is {factor}; give a divisor of the resolution, '
                    f'{config.model.resolution}')
  if config.train.noise_mode not in ('random', 'const', 'none'):
    raise UserError(f"train.noise_mode is {config.train.noise_mode!r}; choose 'random', 'const' "
                    "or 'none'")


def _indented(config: ml_collections.ConfigDict) -> str:
  return '\n'.join('    ' + line for line in str(config).splitlines())
