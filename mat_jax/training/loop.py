"""The training loop: steps, ticks, snapshots, and preemption at any moment.

A run that is interrupted and started again by the same command goes on as if nothing
had happened. So a snapshot flushes events and rows before it saves its checkpoint, and a tick
whose evaluation was interrupted is not logged: its metric accumulators stay in the state, and
the next session begins with that tick.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import time
from typing import Any

from absl import logging
from clu import periodic_actions
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import tqdm

from mat_jax.checkpoints.manager import Checkpoints
from mat_jax.inference import completion
from mat_jax.runtime import image_grid, sharding
from mat_jax.runtime.preemption import Preemption, Rescue
from mat_jax.training import status
from mat_jax.training.inputs import Stream
from mat_jax.training.nan_guard import NanGuard
from mat_jax.training.step import accumulators, aot, loss_scale, microbatch
from mat_jax.training.step.objectives import Networks
from mat_jax.training.step.settings import Training
from mat_jax.training.step.train_state import TrainState
from mat_jax.training.summary_writer import SummaryWriter

# (networks, averaged variables, asks whether to stop) -> metrics by name, None if stopped.
Validate = Callable[[Networks, Mapping[str, Any], Callable[[], bool]], dict[str, float] | None]

# Steps of a session before those that are profiled: they compile.
_UNPROFILED_STEPS = 2
# Seconds of a step beyond which a copy of the state before it is kept, to be saved on a signal.
_SLOW_STEP = 4.0
_STOPPED = 'Stopped by a signal at step %d; the same command goes on from there.'


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Which steps end a tick, and which of them a snapshot.

  Attributes:
    total: steps of the run.
    tick: steps of a tick.
    snapshot: steps between two snapshots, a multiple of `tick`.
  """

  total: int
  tick: int
  snapshot: int

  @classmethod
  def from_config(cls, train: ml_collections.ConfigDict) -> 'Schedule':
    """The schedule of `config.train`, whose fields count in thousands of images."""
    total, tick = (max(1, round(kimg * 1000 / train.batch_size))
                   for kimg in (train.total_kimg, train.kimg_per_tick))
    return cls(total, tick, tick * train.snapshot_ticks)

  def ends_tick(self, step: int) -> bool:
    """Whether a report is due after so many steps."""
    return step % self.tick == 0 or step == self.total

  def ends_snapshot(self, step: int) -> bool:
    """Whether a snapshot is due after so many steps."""
    return step % self.snapshot == 0 or step == self.total


@dataclasses.dataclass(frozen=True)
class Run:
  """The constants of a session.

  Attributes:
    config: see `configs/base.py`.
    mesh: the devices.
    networks: modules.
    step: the training step.
    features: weights of the perceptual loss on the devices, or None.
    stream: training batches, the next one being that of the state's step.
    samples: `image` and `mask` of the sample grid, or None.
    validate: computes the metrics of a snapshot, or None.
    checkpoints: of the workdir.
    writer: summary writer of the workdir.
    preemption: of this process.
  """

  config: ml_collections.ConfigDict
  mesh: Mesh
  networks: Networks
  step: microbatch.Step
  features: Any
  stream: Stream
  samples: dict[str, np.ndarray] | None
  validate: Validate | None
  checkpoints: Checkpoints
  writer: SummaryWriter
  preemption: Preemption


class Loop:
  """Trains from a state to the end of the run, or to a signal."""

  def __init__(self, run: Run, step: int):
    """Prepares a session that begins after `step` steps."""
    train = run.config.train
    self._run, self._schedule = run, Schedule.from_config(train)
    self._step_seconds, self._is_stopped = 0.0, False
    self._nan_guard = NanGuard(train.max_nonfinite_steps)
    self._clock = status.Clock(step, self._schedule.total, train.batch_size)
    self._profile = periodic_actions.Profile(
        logdir=run.writer.workdir, num_profile_steps=train.profile_steps,
        profile_duration_ms=None, first_profile=step + _UNPROFILED_STEPS,
        every_secs=None) if train.profile_steps else None

  def run(self, state: TrainState) -> TrainState:
    """Steps, reports at every tick, and saves at every snapshot.

    Raises:
      UserError: losses that are not finite, or data that cannot be read.
    """
    step, schedule, has_to_stop = int(state.step), self._schedule, self._run.preemption.has_to_stop
    warmup_images = int(state.warmup_images)
    if step == 0:
      self._write_samples(state)
    with tqdm.tqdm(total=schedule.total, initial=step, unit='step', disable=None,
                   dynamic_ncols=True) as progress:
      while True:
        if schedule.ends_tick(step) and is_unreported(state) and not has_to_stop(step):
          state = self._tick(state, step)
        if step >= schedule.total or has_to_stop(step):
          break
        is_warmup = step * self._run.step.settings.batch_size < warmup_images
        state = self._step(state, step, is_warmup)
        step += 1
        progress.update()
    if step < schedule.total or is_unreported(state):
      self._save(state)
      logging.info(_STOPPED, step)
      self._is_stopped = True
    return state

  def _step(self, state: TrainState, step: int, freeze_generator: bool) -> TrainState:
    run = self._run
    batch = sharding.to_global(next(run.stream), run.mesh)
    run.step.prepare(state, run.features, batch, freeze_generator)
    begun = time.monotonic()
    self._give_away(state)
    state, losses = run.step(state, run.features, batch, freeze_generator)
    self._offer(state, losses)
    self._nan_guard.step_done(step + 1, losses)
    self._step_seconds = time.monotonic() - begun
    if self._profile:
      self._profile(step + 1)
    return state

  def _give_away(self, state: TrainState) -> None:
    """Prepares for a step, which donates the state: a copy is kept if steps are slow."""
    if self._step_seconds > _SLOW_STEP:
      self._nan_guard.catch_up()
      copy = jax.tree.map(np.array, jax.device_get(state))
      self._run.preemption.keep(Rescue(functools.partial(self._rescue, copy, None, None)))
    else:
      self._run.preemption.withdraw()

  def _offer(self, state: TrainState, losses: jax.Array | None,
             metrics: Mapping[str, float] | None = None) -> None:
    """Tells what to save if a signal comes while this thread is busy."""
    arrays = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array)]
    self._run.preemption.offer(Rescue(
        functools.partial(self._rescue, state, losses, metrics),
        # JAX's stubs lack `is_ready`.
        lambda: all(x.is_ready() for x in arrays)))  # type: ignore[attr-defined]

  def _rescue(self, state: TrainState, losses: jax.Array | None,
              metrics: Mapping[str, float] | None) -> None:
    """Saves a state from another thread."""
    is_bad = (self._nan_guard.in_a_row if losses is None
              else not np.isfinite(np.asarray(losses)).all())
    if is_bad:
      logging.warning('No checkpoint of step %d: its losses are not finite.', int(state.step))
      return
    self._run.writer.flush()
    self._run.checkpoints.save(state, metrics)
    self._run.checkpoints.wait()
    if not self._is_stopped:  # else the other thread only waited for its own save
      logging.info(_STOPPED, int(state.step))

  def _tick(self, state: TrainState, step: int) -> TrainState:
    """Logs the steps since the last tick and resets the metric accumulators.

    A signal during the evaluation leaves the state unchanged and nothing logged.
    """
    run, is_snapshot = self._run, self._schedule.ends_snapshot(step)
    self._nan_guard.catch_up()
    timing = self._clock.tick(step)
    row = self._row(state, timing)
    metrics: dict[str, float] = {}
    tick = -(-step // self._schedule.tick)
    logging.info(status.line(tick, row['progress/kimg'], timing))
    if state.loss_scale is not None:
      logging.info('loss scale and steps skipped until now: G %g and %d, D %g and %d', *(
          row[f'loss_scale/{name}'] for name in ('g', 'skipped_steps_g', 'd', 'skipped_steps_d')))
    if is_snapshot and run.validate is not None:
      found = run.validate(run.networks, _averaged(state), self._stopped_by_signal)
      if found is None:
        return state
      metrics = found
      logging.info('validation: %s', ', '.join(f'{k} {v:.4g}' for k, v in metrics.items()))
    if is_snapshot:
      self._write_samples(state)
    run.writer.write_scalars(step, row | metrics)
    run.writer.write_row(step, {'tick': tick} | row | metrics)
    state = state.replace(totals=jax.tree.map(jnp.zeros_like, state.totals),
                          gradient_norms=jax.tree.map(jnp.zeros_like, state.gradient_norms))
    self._offer(state, None, metrics)
    if is_snapshot:
      self._save(state, metrics)
      self._offer(state, None)
    self._clock.skip()
    return state

  def _stopped_by_signal(self) -> bool:
    # Processes get signals at different moments, but have to evaluate together.
    return jax.process_count() == 1 and self._run.preemption.requested

  def _row(self, state: TrainState, timing: status.Timing) -> dict[str, float]:
    """The row of a tick: means since the last one, progress, speed."""
    run, host = self._run, jax.device_get(
        (state.totals | (state.gradient_norms or {}), state.augment, state.images_seen, state.loss_scale))
    sums, augment, images_seen, scales = host
    return accumulators.means(sums) | {
        'progress/kimg': int(images_seen) / 1000,
        'augment/probability': float(augment.probability),
        **loss_scale.summary(scales),
        'data/unreadable_images': len(run.stream.unreadable),
        'time/sec_per_kimg': timing.sec_per_kimg, 'time/images_per_sec': timing.images_per_sec,
        **{f'memory/{name}_gb': used for name, used in status.memory().items()},
        **_learning_rates(run.step.settings)}

  def _save(self, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
    """Saves a checkpoint, unless the losses are not finite any more."""
    self._nan_guard.catch_up()
    if self._nan_guard.in_a_row:
      logging.warning('No checkpoint of step %d: its losses are not finite.', int(state.step))
      return
    self._run.writer.flush()
    self._run.checkpoints.save(state, metrics)

  def _write_samples(self, state: TrainState) -> None:
    run = self._run
    if run.samples is None:
      return
    images, masks = run.samples['image'], run.samples['mask']
    seeds = np.arange(len(images), dtype=np.uint32)
    result, stage1 = _complete(run.networks.generator, run.mesh)(
        _averaged(state), images, masks, seeds, run.config.eval.truncation_psi)
    picture = image_grid.grid([images, images * masks, jax.device_get(stage1),
                               jax.device_get(result)])
    run.writer.write_images(int(state.step), {'image_masked_stage1_result': picture[None]})


def is_unreported(state: TrainState) -> bool:
  """Whether there are steps since the last report."""
  return any(np.any(value) for value in jax.device_get(state.totals).values())


def _averaged(state: TrainState) -> dict[str, Any]:
  return {'params': state.ema_params, 'buffers': state.ema_buffers}


@functools.lru_cache(maxsize=4)
def _complete(generator: Any, mesh: Mesh) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """`completion.complete`, replicated over the mesh."""
  complete = functools.partial(completion.complete, generator)
  return aot.across_processes(
      jax.jit(complete, out_shardings=sharding.replicated(mesh)), 'the sample grid')


def _learning_rates(settings: Training) -> dict[str, float]:
  optimizer = settings.optimizer
  return {f'learning_rate/{name}': optimizer.learning_rate * interval / (interval + 1)
          for name, interval in (('g', optimizer.generator_interval),
                                 ('d', optimizer.discriminator_interval))}
