"""The losses of the three phases of a step: Gmain, Dmain and Dreg (MAT, section 3.6).

Pure functions of parameters, batch and random inputs, so that their gradients can be checked on
their own. All are means over the images, and no image influences another one outside of
its group of the minibatch standard deviation: a batch can be split into microbatches.
"""

from collections.abc import Iterable
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp

from mat_jax.features import vgg
from mat_jax.nn import projected
from mat_jax.nn.discriminator import Discriminator
from mat_jax.nn.generator import Generator
from mat_jax.nn.projected import ProjectedDiscriminator
from mat_jax.nn.sizes import num_ws
from mat_jax.ops.implementation import for_platform
from mat_jax.training.step import augment, losses
from mat_jax.training.step.random_inputs import RandomInputs, with_noise
from mat_jax.training.step.settings import Training

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Tree = Any


class Networks(flax.struct.PyTreeNode):
  """The modules of a run; static under `jax.jit`.

  Attributes:
    generator: module.
    discriminator: module.
    feature_network: 'vgg16' or 'vgg19', of the perceptual loss.
    projected: discriminator on the features of VGG16, or None.
  """

  generator: Generator = flax.struct.field(pytree_node=False)
  discriminator: Discriminator = flax.struct.field(pytree_node=False)
  feature_network: str = flax.struct.field(pytree_node=False, default='vgg16')
  projected: ProjectedDiscriminator | None = flax.struct.field(pytree_node=False, default=None)


def update_style_average(networks: Networks, params: Tree, buffers: Tree, z: jax.Array) -> Tree:
  """The buffers after an EMA update of `w_avg` with the styles of a batch, [N, 512] latents.

  The second latent of style mixing does not enter. No gradient flows through it.
  """
  _, changed = networks.generator.apply(
      {'params': params, 'buffers': buffers}, z, train=True, method='map_latents',
      mutable=['buffers'])
  return changed['buffers']


def generate(networks: Networks, params: Tree, buffers: Tree, batch: Batch,
             random_inputs: RandomInputs, settings: Training) -> tuple[jax.Array, jax.Array]:
  """A training pass of the generator.

  Args:
    networks: modules.
    params: of the generator.
    buffers: its buffers, after the update of `w_avg`.
    batch: `image` [N, R, R, 3] in [-1, 1] and `mask` [N, R, R, 1].
    random_inputs: latents, keep masks, noise, and transforms of the augmentation.
    settings: of the step.

  Returns:
    Result and stage-one image, float32 [N, R, R, 3].
  """
  generator = networks.generator
  variables = {'params': params, 'buffers': with_noise(buffers, random_inputs)}

  def styles(z: jax.Array) -> jax.Array:
    return cast(jax.Array, generator.apply(
        variables, z, truncation_psi=settings.truncation_psi, method='map_latents'))

  ws = styles(random_inputs.z)
  if settings.style_mixing:
    first = (jnp.arange(num_ws(generator.resolution))[None, :, None]
             < random_inputs.cutoff[:, None, None])
    ws = jnp.where(first, ws, styles(random_inputs.z_mixed))
  noise_mode = 'none' if settings.noise_mode == 'none' else 'const'
  return cast(tuple[jax.Array, jax.Array], generator.apply(
      variables, batch['image'], batch['mask'], ws, noise_mode, random_inputs.keep_masks,
      method='synthesize'))


@jax.named_scope('augment')
def _augment(random_inputs: RandomInputs, images: tuple[jax.Array, ...], mask: jax.Array,
             probability: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """Augments images that are equal outside of the hole, as the discriminator sees them."""
  if random_inputs.transforms is None:
    return images, mask
  return augment.apply(random_inputs.transforms, images, mask, active=probability > 0)


def generator_loss(
    g_params: Tree, *, g_buffers: Tree, d_params: Tree, features: Tree, probability: jax.Array,
    batch: Batch, random_inputs: RandomInputs, networks: Networks,
    settings: Training) -> tuple[jax.Array, Metrics]:
  """Gmain: the adversarial terms, and those that compare the result with the image.

  Args:
    g_params: generator.
    g_buffers: its buffers, after the update of `w_avg`.
    d_params: discriminator.
    features: weights of the feature network.
    probability: float32 [], of the augmentation.
    batch: real images and masks.
    random_inputs: latents, keep masks, noise, and transforms of the augmentation.
    networks: modules.
    settings: of the step.

  Returns:
    Loss and metrics.
  """
  image, stage1 = generate(networks, g_params, g_buffers, batch, random_inputs, settings)
  l1 = losses.mean_absolute(image, batch['image'])
  metrics = {'loss/l1': l1, **_feature_losses(features, image, batch['image'], networks, settings)}
  loss = (settings.l1_weight * l1 + settings.pcp_ratio * metrics['loss/perceptual']
          + settings.lpips_weight * metrics.get('loss/lpips', 0.0))
  if not settings.is_adversarial:
    return loss, metrics
  (_, seen, seen_stage1), mask = _augment(
      random_inputs, (batch['image'], image, stage1), batch['mask'], probability)
  logits, logits_stage1 = cast(tuple[jax.Array, jax.Array], networks.discriminator.apply(
      {'params': d_params}, seen, mask, seen_stage1))
  metrics |= {'loss/g': losses.generator_adversarial(logits),
              'loss/g_stage1': losses.generator_adversarial(logits_stage1)}
  loss += _weighted(metrics['loss/g'], metrics['loss/g_stage1'], settings)
  if networks.projected:
    score = _score_projected(d_params, features, seen, mask, networks)
    metrics['loss/g_projected'] = losses.generator_hinge(score)
    loss += settings.projected_weight * metrics['loss/g_projected']
  return loss, metrics


def _weighted(loss: jax.Array, loss_stage1: jax.Array, settings: Training) -> jax.Array:
  """The sum of the generator's adversarial losses by their weights."""
  return (settings.adversarial_weight * _used(loss, settings.adversarial_weight)
          + settings.adversarial_stage1_weight
          * _used(loss_stage1, settings.adversarial_stage1_weight))


def _used(x: jax.Array, weight: float) -> jax.Array:
  """0 instead of what has no weight, so that XLA leaves out what only that needs."""
  return x if weight else jnp.float32(0.0)


def _feature_losses(features: Tree, image: jax.Array, target: jax.Array, networks: Networks,
                    settings: Training) -> Metrics:
  """The perceptual loss and LPIPS, from one pass of the feature network for each image."""
  weights = (vgg.perceptual_layers(networks.feature_network)
             if settings.pcp_ratio else {})
  compared = vgg.LPIPS_LAYERS['vgg'] if settings.lpips_weight else ()
  layers = {*weights, *compared}
  a, b = (_features(features, _shrink(x, settings.feature_downsample), layers, networks)
          for x in (image, target))
  found = {'loss/perceptual': jnp.float32(losses.perceptual(a, b, weights))}
  if compared:
    found['loss/lpips'] = jnp.mean(vgg.lpips(
        [a[layer] for layer in compared], [b[layer] for layer in compared], features['lpips']))
  return found


def _shrink(images: jax.Array, factor: int) -> jax.Array:
  """Means of squares of `factor` pixels a side, [N, H, W, C] -> [N, H / f, W / f, C]."""
  n, h, w, c = images.shape
  return images.reshape(n, h // factor, factor, w // factor, factor, c).mean((2, 4))


@jax.named_scope('vgg')
def _features(params: Tree, images: jax.Array, layers: Iterable[str],
              networks: Networks) -> dict[str, jax.Array]:
  if not layers:
    return {}
  generator = networks.generator
  implementation = generator.implementation or for_platform()
  return vgg.vgg_features(
      params, vgg.imagenet_normalize(images), layers, networks.feature_network, generator.dtype,
      lean=implementation.is_lean)


def _score_projected(d_params: Tree, features: Tree, images: jax.Array, mask: jax.Array,
                     networks: Networks) -> jax.Array:
  """Logits of the discriminator on features."""
  assert networks.projected is not None
  found = _features(features, images, projected.LAYERS, networks)
  return cast(jax.Array, networks.projected.apply(
      {'params': d_params[projected.PARAMS]},
      {layer: vgg.normalize_channels(x) for layer, x in found.items()}, mask))


def discriminator_loss(
    d_params: Tree, *, g_params: Tree, g_buffers: Tree, lecam_averages: Tree, features: Tree,
    probability: jax.Array, batch: Batch, random_inputs: RandomInputs, networks: Networks,
    settings: Training) -> tuple[jax.Array, Metrics]:
  """Dmain: generated and real images through both branches, augmented alike.

  Args:
    d_params: discriminator.
    g_params: generator; no gradient flows into it.
    g_buffers: its buffers, after the update of `w_avg`.
    lecam_averages: moving averages of the logits for LeCam, see `TrainState.lecam`.
    features: weights of the feature network.
    probability: float32 [], of the augmentation.
    batch: real images and masks.
    random_inputs: latents, keep masks, noise, and transforms of the augmentation.
    networks: modules.
    settings: of the step.

  Returns:
    Loss and metrics.
  """
  d_params = _freeze(d_params, settings)
  image, stage1 = jax.lax.stop_gradient(
      generate(networks, g_params, g_buffers, batch, random_inputs, settings))
  (real_image, image, stage1), mask = _augment(
      random_inputs, (batch['image'], image, stage1), batch['mask'], probability)

  def score(image: jax.Array, stage1: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cast(tuple[jax.Array, jax.Array], networks.discriminator.apply(
        {'params': d_params}, image, mask, stage1))

  fake, fake_stage1 = score(image, stage1)
  real, real_stage1 = score(real_image, real_image)
  loss = losses.discriminator_adversarial(fake, real)
  loss_stage1 = losses.discriminator_adversarial(fake_stage1, real_stage1)
  metrics = {'loss/d': loss, 'loss/d_stage1': loss_stage1}
  logits = {'fake': fake, 'fake_stage1': fake_stage1, 'real': real, 'real_stage1': real_stage1}
  for name, value in logits.items():
    metrics[f'logits/{name}'] = jnp.mean(value)
    metrics[f'signs/{name}'] = jnp.mean(jnp.sign(value))
  total = (_used(loss, settings.adversarial_weight)
           + _used(loss_stage1, settings.adversarial_stage1_weight))
  if settings.lecam_weight:
    metrics['loss/lecam'] = losses.lecam(logits, lecam_averages)
    total += settings.lecam_weight * metrics['loss/lecam']
  if networks.projected:
    fake, real = (_score_projected(d_params, features, x, mask, networks)
                  for x in (image, real_image))
    metrics['loss/d_projected'] = losses.discriminator_hinge(fake, real)
    total += metrics['loss/d_projected']
  return total, metrics


def r1_loss(
    d_params: Tree, *, probability: jax.Array, batch: Batch,
    transforms: augment.Transforms | None, networks: Networks,
    settings: Training) -> tuple[jax.Array, Metrics]:
  """Dreg: R1 of each branch with respect to its own real image, times the interval.

  Always in float32: the gradient of a bfloat16 network is too coarse to be squared.

  Args:
    d_params: discriminator.
    probability: float32 [], of the augmentation.
    batch: real images and masks.
    transforms: of the augmentation, through which the gradient goes, or None.
    networks: modules.
    settings: of the step.

  Returns:
    Loss, and the unweighted penalties.
  """
  discriminator = networks.discriminator.clone(dtype=jnp.float32)
  d_params = _freeze(d_params, settings)

  def see(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    if transforms is None:
      return image, batch['mask']
    (image,), mask = augment.apply(transforms, (image,), batch['mask'], active=probability > 0)
    return image, mask

  def logits(image: jax.Array, stage1: jax.Array) -> jax.Array:
    # Separately, so that the gradient of each branch flows into its own image.
    (image, mask), (stage1, _) = see(image), see(stage1)
    both = cast(tuple[jax.Array, jax.Array], discriminator.apply(
        {'params': d_params}, image, mask, stage1))
    return (_used(jnp.sum(both[0]), settings.adversarial_weight)
            + _used(jnp.sum(both[1]), settings.adversarial_stage1_weight))

  gradients = jax.grad(logits, (0, 1))(batch['image'], batch['image'])
  penalty, penalty_stage1 = map(losses.gradient_penalty, gradients)
  weight = 0.5 * settings.r1_gamma * settings.r1_interval
  metrics = {'loss/r1': penalty, 'loss/r1_stage1': penalty_stage1}
  return weight * (penalty + penalty_stage1), metrics


def _freeze(d_params: Tree, settings: Training) -> Tree:
  """Stops the gradients of the frozen modules (Freeze-D, arXiv 2002.10964)."""
  return {branch: {name: jax.lax.stop_gradient(params)
                   if name in settings.frozen_d_modules else params
                   for name, params in modules.items()}
          for branch, modules in d_params.items()}
