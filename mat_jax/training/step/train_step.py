"""The training step: Gmain, Dmain, Dreg, EMA update of the generator, and ADA, in this order."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mat_jax.training.step import accumulators, augment, loss_scale, objectives
from mat_jax.training.step.gradients import Context
from mat_jax.training.step.objectives import Batch, Metrics
from mat_jax.training.step.random_inputs import sample_transforms
from mat_jax.training.step.settings import Training
from mat_jax.training.step.train_state import AugmentState, TrainState, make_optimizers

Tree = Any
Step = Callable[[TrainState, Tree, Batch], tuple[TrainState, jax.Array]]

_LECAM_DECAY = 0.99  # of the averaged logits (arXiv 2104.03310)


def make_train_step(context: Context, freeze_generator: bool = False) -> Step:
  """The step as a function of (state, features, batch).

  `features` are the weights of the feature network (an argument, so that they
  do not become constants of the compiled step); batch holds `image` [N, R, R, 3] in
  [-1, 1] and `mask` [N, R, R, 1].

  Args:
    context: modules and settings.
    freeze_generator: leaves out Gmain, so that a fresh discriminator can catch up;
      the generator, its buffers and its average stay as they are.

  Returns:
    The step, to be compiled. It returns the next state and the losses of the step,
    float32 [len(accumulators.LOSSES)] in that order, 0 for those it did not have.
  """
  settings = context.settings

  def step(state: TrainState, features: Tree, batch: Batch) -> tuple[TrainState, jax.Array]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    g_key, d_key, r1_key = jax.random.split(key, 3)
    metrics = dict.fromkeys((*accumulators.LOSSES, *accumulators.GRADIENT_NORMS), jnp.float32(0.0))

    begun, buffers = state, state.g_buffers
    if not freeze_generator:
      state, metrics = _count(
          metrics, update_generator(state, features, batch, g_key, context))
    if settings.is_adversarial:
      state, metrics = _count(metrics, update_discriminator(
          state, features, batch, d_key, context))
      state, metrics = jax.lax.cond(
          state.step % settings.r1_interval == 0,
          lambda state, metrics: _count(
              metrics, regularize_discriminator(state, batch, r1_key, context)),
          lambda state, metrics: (state, metrics), state, metrics)
      state = state.replace(augment=adapt_augmentation(
          state.augment, metrics['signs/real'], state.step, settings))
    state = (state.replace(g_buffers=buffers) if freeze_generator
             else loss_scale.unless_skipped(begun, state, update_ema(state, settings)))
    watched = jnp.stack([metrics[name] for name in accumulators.LOSSES])
    return state.replace(
        step=state.step + 1, images_seen=state.images_seen + settings.batch_size), watched

  return step


def _count(metrics: Metrics, result: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
  """Adds the metrics of a phase to the state's accumulators and to the metrics of the step."""
  state, found = result
  norms = {name: found[name] for name in accumulators.GRADIENT_NORMS if name in found}
  rest = {name: value for name, value in found.items() if name not in norms}
  sums = state.gradient_norms
  return state.replace(totals=accumulators.add(state.totals, rest),
                       gradient_norms=sums and accumulators.add(sums, norms)), metrics | found


@jax.named_scope('Gmain')
def update_generator(state: TrainState, features: Tree, batch: Batch, key: jax.Array,
                     context: Context) -> tuple[TrainState, Metrics]:
  """Gmain and its step of Adam.

  Args:
    state: before.
    features: weights of the feature network.
    batch: `image` [N, R, R, 3] in [-1, 1] and `mask` [N, R, R, 1].
    key: for the random inputs of the pass.
    context: modules and settings.

  Returns:
    The state with the updated generator, and metrics. In float16, where the gradients are not
    finite, only the loss scale is changed.
  """
  networks, settings = context.networks, context.settings
  random_inputs = context.sample(key, state)
  buffers = objectives.update_style_average(
      networks, state.g_params, state.g_buffers, random_inputs.z)

  def loss(g_params: Tree, shared: Tree, examples: Tree) -> tuple[jax.Array, Metrics]:
    return objectives.generator_loss(
        g_params, **shared, **examples, networks=networks, settings=settings)

  gradients, metrics = context.gradients(
      loss, state.g_params,
      shared={'g_buffers': buffers, 'd_params': state.d_params, 'features': features,
              'probability': state.augment.probability},
      examples={'batch': batch, 'random_inputs': random_inputs},
      scale=loss_scale.factor(state.loss_scale, 'g'))
  optimizer, _ = make_optimizers(settings)

  @jax.named_scope('adam')
  def update(gradients: Tree) -> TrainState:
    updates, moments = optimizer.update(gradients, state.g_optimizer)
    params = optax.apply_updates(state.g_params, updates)
    return state.replace(g_params=params, g_buffers=buffers, g_optimizer=moments)

  norm = {'gradient_norm/g': loss_scale.norm(state.loss_scale, 'g', gradients)}
  return loss_scale.apply(state, 'g', gradients, update), metrics | norm


@jax.named_scope('Dmain')
def update_discriminator(state: TrainState, features: Tree, batch: Batch, key: jax.Array,
                         context: Context) -> tuple[TrainState, Metrics]:
  """Dmain and its step of Adam; arguments and result as of `update_generator`.

  The generator's pass also updates its `w_avg`.
  """
  networks, settings = context.networks, context.settings
  random_inputs = context.sample(key, state)
  buffers = objectives.update_style_average(
      networks, state.g_params, state.g_buffers, random_inputs.z)

  def loss(d_params: Tree, shared: Tree, examples: Tree) -> tuple[jax.Array, Metrics]:
    return objectives.discriminator_loss(
        d_params, **shared, **examples, networks=networks, settings=settings)

  gradients, metrics = context.gradients(
      loss, state.d_params,
      shared={'g_params': state.g_params, 'g_buffers': buffers, 'lecam_averages': state.lecam,
              'features': features, 'probability': state.augment.probability},
      examples={'batch': batch, 'random_inputs': random_inputs},
      scale=loss_scale.factor(state.loss_scale, 'd'))

  def update(gradients: Tree) -> TrainState:
    updated = _apply_to_discriminator(state, gradients, settings)
    lecam = {name: _LECAM_DECAY * average + (1 - _LECAM_DECAY) * _finite(metrics[f'logits/{name}'])
             for name, average in state.lecam.items()}
    return updated.replace(g_buffers=buffers, lecam=lecam)

  norm = {'gradient_norm/d': loss_scale.norm(state.loss_scale, 'd', gradients)}
  return loss_scale.apply(state, 'd', gradients, update), metrics | norm


@jax.named_scope('Dreg')
def regularize_discriminator(state: TrainState, batch: Batch, key: jax.Array,
                             context: Context) -> tuple[TrainState, Metrics]:
  """Dreg and its step of Adam; arguments and result as of `update_generator`."""
  networks, settings = context.networks, context.settings
  probability = state.augment.probability
  transforms = context.shard(
      sample_transforms(key, networks.generator.resolution, probability, settings))

  def loss(d_params: Tree, shared: Tree, examples: Tree) -> tuple[jax.Array, Metrics]:
    return objectives.r1_loss(d_params, **shared, **examples, networks=networks, settings=settings)

  with context.float32_matmuls():
    gradients, metrics = context.gradients(
        loss, state.d_params, shared={'probability': probability},
        examples={'batch': batch, 'transforms': transforms})
  norm = {'gradient_norm/r1': optax.tree.norm(gradients)}
  return _apply_to_discriminator(state, gradients, settings), metrics | norm


@jax.named_scope('adam')
def _apply_to_discriminator(state: TrainState, gradients: Tree, settings: Training) -> TrainState:
  _, optimizer = make_optimizers(settings)
  updates, moments = optimizer.update(gradients, state.d_optimizer)
  return state.replace(
      d_params=optax.apply_updates(state.d_params, updates), d_optimizer=moments)


def adapt_augmentation(state: AugmentState, sign: jax.Array, step: jax.Array,
                       settings: Training) -> AugmentState:
  """Accumulates the sign of real logits, and updates the probability every few steps.

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


@jax.named_scope('ema')
def update_ema(state: TrainState, settings: Training) -> TrainState:
  """EMA update of the averaged generator."""
  decay = ema_decay(state.images_seen, settings)
  ema = jax.tree.map(lambda p, e: p + decay * (e - p), state.g_params, state.ema_params)
  return state.replace(ema_params=ema, ema_buffers=state.g_buffers)
