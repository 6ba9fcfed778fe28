"""One training step: Gmain, Dmain, lazy R1 and the moving average.

The losses of the phases are pure functions of parameters and draws, so that
their gradients can be checked on their own.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mat_jax import feature_nets, losses
from mat_jax.discriminator import Discriminator
from mat_jax.generator import Generator
from mat_jax.settings import Training
from mat_jax.sizes import num_ws
from mat_jax.train_state import TrainState, make_optimizers

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Tree = Any

# Metrics of each phase, by the name under which the steps that had it are counted.
METRICS = {
    'count/g_steps': ('loss/g', 'loss/g_stage1', 'loss/perceptual', 'loss/l1'),
    'count/d_steps': (
        'loss/d', 'loss/d_stage1', 'logits/fake', 'logits/fake_stage1', 'logits/real',
        'logits/real_stage1', 'signs/fake', 'signs/fake_stage1', 'signs/real',
        'signs/real_stage1'),
    'count/r1_steps': ('loss/r1', 'loss/r1_stage1'),
}
TOTALS = tuple(name for count, names in METRICS.items() for name in (count, *names))


@flax.struct.dataclass
class Networks:
  """The modules of a run; static under `jax.jit`.

  Attributes:
    generator: module.
    discriminator: module.
    feature_network: 'vgg16' or 'vgg19', of the perceptual loss.
  """

  generator: Generator = flax.struct.field(pytree_node=False)
  discriminator: Discriminator = flax.struct.field(pytree_node=False)
  feature_network: str = flax.struct.field(pytree_node=False, default='vgg16')


@flax.struct.dataclass
class Draws:
  """The random part of one generator pass.

  Attributes:
    z: [N, 512].
    z_mixed: [N, 512], styles from `cutoff` on come from it.
    cutoff: int32 [], num_ws for no mixing.
    key: for noise and keep maps.
    keep_maps: replaces the random keep maps, or None.
  """

  z: jax.Array
  z_mixed: jax.Array
  cutoff: jax.Array
  key: jax.Array
  keep_maps: dict[str, jax.Array] | None = None


def draw(key: jax.Array, batch_size: int, style_mixing: float, resolution: int) -> Draws:
  """Latents, and with probability `style_mixing` one cutoff for the batch."""
  z_key, mixed_key, choice_key, cutoff_key, pass_key = jax.random.split(key, 5)
  count = num_ws(resolution)
  cutoff = jax.random.randint(cutoff_key, (), 1, count)
  mix = jax.random.uniform(choice_key) < style_mixing
  return Draws(
      z=jax.random.normal(z_key, (batch_size, 512)),
      z_mixed=jax.random.normal(mixed_key, (batch_size, 512)),
      cutoff=jnp.where(mix, cutoff, count), key=pass_key)


def generate(networks: Networks, params: Tree, buffers: Tree, batch: Batch, draws: Draws,
             settings: Training) -> tuple[jax.Array, jax.Array, Tree]:
  """A training pass of the generator.

  Returns:
    Result, stage-one image, and the buffers with the moved `w_avg`. The second
    latent of style mixing does not move it.
  """
  generator, psi = networks.generator, settings.truncation_psi
  ws, changed = generator.apply(
      {'params': params, 'buffers': buffers}, draws.z, truncation_psi=psi, train=True,
      method='map_latents', mutable=['buffers'])
  variables = {'params': params, 'buffers': changed['buffers']}
  if settings.style_mixing:
    mixed = generator.apply(variables, draws.z_mixed, truncation_psi=psi, method='map_latents')
    ws = jnp.where(jnp.arange(ws.shape[1])[None, :, None] < draws.cutoff, ws, mixed)
  keep_key, noise_key = jax.random.split(draws.key)
  image, stage1 = generator.apply(
      variables, batch['image'], batch['mask'], ws, settings.noise_mode, draws.keep_maps,
      method='synthesize', rngs={'keep': keep_key, 'noise': noise_key})
  return image, stage1, changed['buffers']


def generator_loss(g_params: Tree, g_buffers: Tree, d_params: Tree, features: Tree, batch: Batch,
                   draws: Draws, networks: Networks,
                   settings: Training) -> tuple[jax.Array, tuple[Metrics, Tree]]:
  """Gmain: both adversarial terms, the perceptual and the optional L1 term.

  Returns:
    Loss, and (metrics, moved buffers).
  """
  image, stage1, buffers = generate(networks, g_params, g_buffers, batch, draws, settings)
  logits, logits_stage1 = networks.discriminator.apply(
      {'params': d_params}, image, batch['mask'], stage1)
  adversarial = losses.generator_adversarial(logits)
  adversarial_stage1 = losses.generator_adversarial(logits_stage1)
  perceptual = _perceptual(features, image, batch['image'], networks, settings)
  l1 = losses.mean_absolute(image, batch['image'])
  loss = (adversarial + adversarial_stage1 + settings.pcp_ratio * perceptual
          + settings.l1_weight * l1)
  metrics = {'loss/g': adversarial, 'loss/g_stage1': adversarial_stage1,
             'loss/perceptual': perceptual, 'loss/l1': l1}
  return loss, (metrics, buffers)


def _perceptual(features: Tree, image: jax.Array, target: jax.Array, networks: Networks,
                settings: Training) -> jax.Array:
  if not settings.pcp_ratio:
    return jnp.float32(0.0)
  weights = feature_nets.perceptual_layers(networks.feature_network)

  def extract(x: jax.Array) -> dict[str, jax.Array]:
    return feature_nets.vgg_features(
        features, feature_nets.imagenet_normalize(x), weights, networks.feature_network,
        networks.generator.dtype)

  return losses.perceptual(extract(image), extract(target), weights)


def discriminator_loss(d_params: Tree, image: jax.Array, stage1: jax.Array, batch: Batch,
                       networks: Networks) -> tuple[jax.Array, Metrics]:
  """Dmain: generated and real images through both branches.

  Args:
    d_params: discriminator.
    image: generated results, no gradient is wanted into them.
    stage1: generated stage-one images.
    batch: real images and masks.
    networks: modules.

  Returns:
    Loss and metrics.
  """
  def score(image: jax.Array, stage1: jax.Array) -> tuple[jax.Array, jax.Array]:
    return networks.discriminator.apply({'params': d_params}, image, batch['mask'], stage1)

  fake, fake_stage1 = score(image, stage1)
  real, real_stage1 = score(batch['image'], batch['image'])
  loss = losses.discriminator_adversarial(fake, real)
  loss_stage1 = losses.discriminator_adversarial(fake_stage1, real_stage1)
  metrics = {'loss/d': loss, 'loss/d_stage1': loss_stage1}
  for name, logits in (('fake', fake), ('fake_stage1', fake_stage1), ('real', real),
                       ('real_stage1', real_stage1)):
    metrics[f'logits/{name}'] = jnp.mean(logits)
    metrics[f'signs/{name}'] = jnp.mean(jnp.sign(logits))
  return loss + loss_stage1, metrics


def r1_loss(d_params: Tree, batch: Batch, networks: Networks,
            settings: Training) -> tuple[jax.Array, Metrics]:
  """Dreg: R1 of each branch with respect to its own real image, times the interval.

  Returns:
    Loss, and the unweighted penalties.
  """
  def logits(image: jax.Array, stage1: jax.Array) -> jax.Array:
    both = networks.discriminator.apply({'params': d_params}, image, batch['mask'], stage1)
    return jnp.sum(both[0]) + jnp.sum(both[1])

  gradients = jax.grad(logits, (0, 1))(batch['image'], batch['image'])
  penalty, penalty_stage1 = map(losses.gradient_penalty, gradients)
  weight = 0.5 * settings.r1_gamma * settings.r1_interval
  metrics = {'loss/r1': penalty, 'loss/r1_stage1': penalty_stage1}
  return weight * (penalty + penalty_stage1), metrics


def _ema_decay(images_seen: jax.Array, settings: Training) -> jax.Array:
  """0.5^(batch / half-life), the half-life optionally ramped up."""
  half_life = jnp.float32(settings.ema_kimg * 1000.0)
  if settings.ema_rampup is not None:
    half_life = jnp.minimum(half_life, images_seen.astype(jnp.float32) * settings.ema_rampup)
  return 0.5 ** (settings.batch_size / jnp.maximum(half_life, 1e-8))


def update_generator(state: TrainState, features: Tree, batch: Batch, key: jax.Array,
                     networks: Networks, settings: Training) -> tuple[TrainState, Metrics]:
  """Gmain and its step of Adam.

  Args:
    state: before.
    features: weights of the feature network.
    batch: `image` [N, R, R, 3] in [-1, 1] and `mask` [N, R, R, 1].
    key: for the draws of the pass.
    networks: modules.
    settings: of the step.

  Returns:
    The state with another generator, and metrics.
  """
  draws = draw(key, settings.batch_size, settings.style_mixing, networks.generator.resolution)
  gradients, (metrics, buffers) = jax.grad(generator_loss, has_aux=True)(
      state.g_params, state.g_buffers, state.d_params, features, batch, draws, networks, settings)
  optimizer, _ = make_optimizers(settings.optimizer)
  updates, moments = optimizer.update(gradients, state.g_optimizer)
  params = optax.apply_updates(state.g_params, updates)
  return state.replace(g_params=params, g_buffers=buffers, g_optimizer=moments), metrics


def update_discriminator(state: TrainState, batch: Batch, key: jax.Array, networks: Networks,
                         settings: Training) -> tuple[TrainState, Metrics]:
  """Dmain and its step of Adam; arguments and result as of `update_generator`.

  The generator's pass also moves its `w_avg`.
  """
  draws = draw(key, settings.batch_size, settings.style_mixing, networks.generator.resolution)
  image, stage1, buffers = generate(
      networks, state.g_params, state.g_buffers, batch, draws, settings)
  gradients, metrics = jax.grad(discriminator_loss, has_aux=True)(
      state.d_params, image, stage1, batch, networks)
  return _apply_to_discriminator(state, gradients, settings).replace(g_buffers=buffers), metrics


def regularize_discriminator(state: TrainState, batch: Batch, networks: Networks,
                             settings: Training) -> tuple[TrainState, Metrics]:
  """Dreg and its step of Adam, in every `settings.r1_interval`-th step."""
  def apply(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    gradients, metrics = jax.grad(r1_loss, has_aux=True)(
        state.d_params, batch, networks, settings)
    return (_apply_to_discriminator(state, gradients, settings),
            {**metrics, 'count/r1_steps': jnp.float32(1.0)})

  def leave(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    del batch
    return state, {name: jnp.float32(0.0)
                   for name in ('count/r1_steps', *METRICS['count/r1_steps'])}

  return jax.lax.cond(state.step % settings.r1_interval == 0, apply, leave, state, batch)


def _apply_to_discriminator(state: TrainState, gradients: Tree, settings: Training) -> TrainState:
  _, optimizer = make_optimizers(settings.optimizer)
  updates, moments = optimizer.update(gradients, state.d_optimizer)
  return state.replace(
      d_params=optax.apply_updates(state.d_params, updates), d_optimizer=moments)


def _move_average(state: TrainState, settings: Training) -> TrainState:
  decay = _ema_decay(state.images_seen, settings)
  ema = jax.tree.map(lambda p, e: p + decay * (e - p), state.g_params, state.ema_params)
  return state.replace(ema_params=ema, ema_buffers=state.g_buffers)


def make_train_step(
    networks: Networks, settings: Training,
    freeze_generator: bool = False) -> Callable[[TrainState, Tree, Batch], TrainState]:
  """The step as a function of (state, features, batch).

  `features` are the weights of the feature network (an argument, so that they
  do not become constants of the program); batch holds `image` [N, R, R, 3] in
  [-1, 1] and `mask` [N, R, R, 1].

  Args:
    networks: modules.
    settings: of the step.
    freeze_generator: leaves out Gmain, so that a fresh discriminator can catch up;
      the generator, its buffers and its average stay as they are.

  Returns:
    The step, to be compiled.
  """
  def step(state: TrainState, features: Tree, batch: Batch) -> TrainState:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    g_key, d_key = jax.random.split(key)
    metrics = dict.fromkeys(TOTALS, jnp.float32(0.0))
    buffers = state.g_buffers
    if not freeze_generator:
      state, g_metrics = update_generator(state, features, batch, g_key, networks, settings)
      metrics |= {**g_metrics, 'count/g_steps': jnp.float32(1.0)}
    state, d_metrics = update_discriminator(state, batch, d_key, networks, settings)
    state, r1_metrics = regularize_discriminator(state, batch, networks, settings)
    metrics |= {**d_metrics, 'count/d_steps': jnp.float32(1.0), **r1_metrics}
    state = (state.replace(g_buffers=buffers) if freeze_generator
             else _move_average(state, settings))
    return state.replace(
        step=state.step + 1, images_seen=state.images_seen + settings.batch_size,
        totals={name: state.totals[name] + value for name, value in metrics.items()})

  return step


def report(totals: dict[str, Any]) -> dict[str, float]:
  """Means of the summed metrics; those of phases that did not occur are left out."""
  return {name: float(totals[name]) / float(totals[count])
          for count, names in METRICS.items() if totals[count] for name in names}
