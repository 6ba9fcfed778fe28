"""One training step: Gmain, Dmain, lazy R1, adaptive augmentation and the moving average."""

from collections.abc import Callable
import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import optax

from mat_jax.nn.model_config import GROUP_SIZE
from mat_jax.runtime import sharding
from mat_jax.training import augment, phases, totals
from mat_jax.training.draws import Draws, draw, draw_transforms
from mat_jax.training.phases import Batch, Metrics, Networks
from mat_jax.training.settings import Training
from mat_jax.training.train_state import AugmentState, TrainState, make_optimizers

Tree = Any
# (params, shared, examples) -> loss and metrics.
Loss = Callable[[Tree, Tree, Tree], tuple[jax.Array, Metrics]]
Step = Callable[[TrainState, Tree, Batch], tuple[TrainState, jax.Array]]

_LECAM_DECAY = 0.99  # of the averaged logits (arXiv 2104.03310)


def mean_gradients(loss: Loss, params: Tree, shared: Tree, examples: Tree,
                   microbatches: int) -> tuple[Tree, Metrics]:
  """Gradients and metrics of a mean over examples, computed in microbatches.

  Args:
    loss: (params, shared, examples) -> loss and metrics, both means over the examples.
    params: what to differentiate by.
    shared: what all examples need.
    examples: arrays [N, ...].
    microbatches: number of equal parts of the examples.

  Returns:
    Gradients and metrics of all examples.
  """
  value = jax.grad(loss, has_aux=True)
  if microbatches == 1:
    return value(params, shared, examples)
  parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), examples)

  def add(total: Tree, part: Tree) -> tuple[Tree, None]:
    return jax.tree.map(jnp.add, total, value(params, shared, part)), None

  shapes = jax.eval_shape(value, params, shared, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(add, zeros, parts)
  return jax.tree.map(lambda x: x / microbatches, total)


@dataclasses.dataclass(frozen=True)
class Context:
  """What the phases of a step need beside the state.

  Attributes:
    networks: modules.
    settings: of the step.
    mesh: devices that batches are cut over; None for one, wherever it is.
  """

  networks: Networks
  settings: Training
  mesh: Mesh | None = None

  def spread(self, draws: Tree) -> Tree:
    """Draws of the global batch, each device making its part."""
    if self.mesh is None:
      return draws
    return jax.lax.with_sharding_constraint(draws, sharding.by_batch(self.mesh))

  def draw(self, key: jax.Array, state: TrainState) -> Draws:
    """The randomness of a pass."""
    return self.spread(draw(key, self.networks.generator, state.g_buffers,
                            state.augment.probability, self.settings))

  def float32_products(self) -> contextlib.AbstractContextManager[None]:
    """Within it, products of float32 arrays are float32 on a TPU too, to about 16 bits.

    By default a TPU rounds the operands to bfloat16; here it multiplies both parts of each, in
    three passes. A precision that was asked for, as by `jax_default_matmul_precision`, stays.
    """
    if self._is_tpu and jax.config.jax_default_matmul_precision is None:
      return jax.default_matmul_precision('high')
    return contextlib.nullcontext()

  @property
  def _is_tpu(self) -> bool:
    return self.mesh is not None and self.mesh.devices.flat[0].platform == 'tpu'

  def gradients(self, loss: Loss, params: Tree, shared: Tree,
                examples: Tree) -> tuple[Tree, Metrics]:
    """`mean_gradients` over the devices.

    Each device adds up its own images before the devices add up theirs, so that one copy
    of the gradients is all that moves between them.
    """
    microbatches = self.settings.batch_size // self.settings.microbatch
    devices = 1 if self.mesh is None else self.mesh.devices.size
    # Groups of the minibatch standard deviation may lie across devices: XLA knows how. On a
    # TPU one device is told, too, that its batch is its own, for `window_kernel`.
    if (devices == 1 and not self._is_tpu) or self.settings.microbatch // devices % GROUP_SIZE:
      return mean_gradients(loss, params, shared, examples, microbatches)

    def local(params: Tree, shared: Tree, examples: Tree) -> tuple[Tree, Metrics]:
      found = mean_gradients(loss, params, shared, examples, microbatches)
      return jax.lax.pmean(found, sharding.AXIS)

    everywhere, cut = PartitionSpec(), PartitionSpec(sharding.AXIS)
    return jax.shard_map(
        local, mesh=self.mesh, in_specs=(everywhere, everywhere, cut), out_specs=everywhere,
        check_vma=False)(params, shared, examples)


@jax.named_scope('Gmain')
def update_generator(state: TrainState, features: Tree, batch: Batch, key: jax.Array,
                     context: Context) -> tuple[TrainState, Metrics]:
  """Gmain and its step of Adam.

  Args:
    state: before.
    features: weights of the feature network.
    batch: `image` [N, R, R, 3] in [-1, 1] and `mask` [N, R, R, 1].
    key: for the draws of the pass.
    context: modules and settings.

  Returns:
    The state with another generator, and metrics.
  """
  networks, settings = context.networks, context.settings
  draws = context.draw(key, state)
  buffers = phases.move_style_average(networks, state.g_params, state.g_buffers, draws.z)

  def loss(params: Tree, shared: Tree, examples: Tree) -> tuple[jax.Array, Metrics]:
    return phases.generator_loss(params, *shared, *examples, networks, settings)

  shared = (buffers, state.d_params, features, state.augment.probability)
  gradients, metrics = context.gradients(loss, state.g_params, shared, (batch, draws))
  optimizer, _ = make_optimizers(settings)
  updates, moments = optimizer.update(gradients, state.g_optimizer)
  params = optax.apply_updates(state.g_params, updates)
  return state.replace(g_params=params, g_buffers=buffers, g_optimizer=moments), metrics


@jax.named_scope('Dmain')
def update_discriminator(state: TrainState, features: Tree, batch: Batch, key: jax.Array,
                         context: Context) -> tuple[TrainState, Metrics]:
  """Dmain and its step of Adam; arguments and result as of `update_generator`.

  The generator's pass also moves its `w_avg`.
  """
  networks, settings = context.networks, context.settings
  draws = context.draw(key, state)
  buffers = phases.move_style_average(networks, state.g_params, state.g_buffers, draws.z)

  def loss(params: Tree, shared: Tree, examples: Tree) -> tuple[jax.Array, Metrics]:
    return phases.discriminator_loss(params, *shared, *examples, networks, settings)

  shared = (state.g_params, buffers, state.lecam, features, state.augment.probability)
  gradients, metrics = context.gradients(loss, state.d_params, shared, (batch, draws))
  state = _apply_to_discriminator(state, gradients, settings)
  lecam = {name: _LECAM_DECAY * average + (1 - _LECAM_DECAY) * _finite(metrics[f'logits/{name}'])
           for name, average in state.lecam.items()}
  return state.replace(g_buffers=buffers, lecam=lecam), metrics


@jax.named_scope('Dreg')
def regularize_discriminator(state: TrainState, batch: Batch, key: jax.Array,
                             context: Context) -> tuple[TrainState, Metrics]:
  """Dreg and its step of Adam; arguments and result as of `update_generator`."""
  networks, settings = context.networks, context.settings
  probability = state.augment.probability
  transforms = context.spread(
      draw_transforms(key, networks.generator.resolution, probability, settings))

  def loss(params: Tree, shared: Tree, examples: Tree) -> tuple[jax.Array, Metrics]:
    return phases.r1_loss(params, *shared, *examples, networks, settings)

  with context.float32_products():
    gradients, metrics = context.gradients(
        loss, state.d_params, (probability,), (batch, transforms))
  return _apply_to_discriminator(state, gradients, settings), metrics


def _apply_to_discriminator(state: TrainState, gradients: Tree, settings: Training) -> TrainState:
  _, optimizer = make_optimizers(settings)
  updates, moments = optimizer.update(gradients, state.d_optimizer)
  return state.replace(
      d_params=optax.apply_updates(state.d_params, updates), d_optimizer=moments)


def adapt_augmentation(state: AugmentState, sign: jax.Array, step: jax.Array,
                       settings: Training) -> AugmentState:
  """Takes in the sign of real logits, and moves the probability every few steps.

  Args:
    state: before.
    sign: float32 [], mean sign of the real logits of this step.
    step: int32 [], number of this step.
    settings: of the step.

  Returns:
    The state after the step.
  """
  options = settings.augmentation
  if not options.pipeline:
    return state
  count = state.sign_count + jnp.isfinite(sign)
  total = state.sign_sum + _finite(sign)
  moved = AugmentState(
      probability=augment.adapt(
          state.probability, total, count, target=options.target,
          step_size=settings.batch_size * options.interval / (options.kimg * 1000),
          max_probability=options.max_probability),
      sign_sum=jnp.float32(0.0), sign_count=jnp.float32(0.0))
  waiting = state.replace(sign_sum=total, sign_count=count)
  return jax.tree.map(
      lambda a, b: jnp.where((step + 1) % options.interval == 0, a, b), moved, waiting)


def _finite(x: jax.Array) -> jax.Array:
  return jnp.where(jnp.isfinite(x), x, 0.0)


def ema_decay(images_seen: jax.Array, settings: Training) -> jax.Array:
  """0.5^(batch / half-life), the half-life optionally ramped up."""
  half_life = jnp.float32(settings.ema_kimg * 1000.0)
  if settings.ema_rampup is not None:
    half_life = jnp.minimum(half_life, images_seen.astype(jnp.float32) * settings.ema_rampup)
  return 0.5 ** (settings.batch_size / jnp.maximum(half_life, 1e-8))


def move_average(state: TrainState, settings: Training) -> TrainState:
  """The state with its averaged generator moved towards the generator."""
  decay = ema_decay(state.images_seen, settings)
  ema = jax.tree.map(lambda p, e: p + decay * (e - p), state.g_params, state.ema_params)
  return state.replace(ema_params=ema, ema_buffers=state.g_buffers)


def _count(metrics: Metrics, result: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
  """Adds what a phase found to the state's totals and to the metrics of the step."""
  state, found = result
  return state.replace(totals=totals.add(state.totals, found)), metrics | found


def make_train_step(context: Context, freeze_generator: bool = False) -> Step:
  """The step as a function of (state, features, batch).

  `features` are the weights of the feature network (an argument, so that they
  do not become constants of the program); batch holds `image` [N, R, R, 3] in
  [-1, 1] and `mask` [N, R, R, 1].

  Args:
    context: modules and settings.
    freeze_generator: leaves out Gmain, so that a fresh discriminator can catch up;
      the generator, its buffers and its average stay as they are.

  Returns:
    The step, to be compiled. It returns the next state and the losses of the step,
    float32 [len(totals.LOSSES)] in that order, 0 for those it did not have.
  """
  settings = context.settings

  def step(state: TrainState, features: Tree, batch: Batch) -> tuple[TrainState, jax.Array]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    g_key, d_key, r1_key = jax.random.split(key, 3)
    metrics = dict.fromkeys(totals.LOSSES, jnp.float32(0.0))

    buffers = state.g_buffers
    if not freeze_generator:
      state, metrics = _count(
          metrics, update_generator(state, features, batch, g_key, context))
    state, metrics = _count(metrics, update_discriminator(
        state, features, batch, d_key, context))
    state, metrics = jax.lax.cond(
        state.step % settings.r1_interval == 0,
        lambda state, metrics: _count(
            metrics, regularize_discriminator(state, batch, r1_key, context)),
        lambda state, metrics: (state, metrics), state, metrics)
    state = (state.replace(g_buffers=buffers) if freeze_generator
             else move_average(state, settings))
    watched = jnp.stack([metrics[name] for name in totals.LOSSES])
    return state.replace(
        augment=adapt_augmentation(state.augment, metrics['signs/real'], state.step, settings),
        step=state.step + 1, images_seen=state.images_seen + settings.batch_size), watched

  return step
