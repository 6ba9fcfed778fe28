"""Everything that training carries from one step to the next."""

from collections.abc import Callable, Collection
import dataclasses
from typing import Any

from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mat_jax.nn.discriminator import Discriminator
from mat_jax.nn.generator import Generator
from mat_jax.nn.projected import LAYERS, PARAMS, ProjectedDiscriminator
from mat_jax.ops.implementation import for_platform
from mat_jax.training.step import accumulators, loss_scale
from mat_jax.training.step.loss_scale import LossScales
from mat_jax.training.step.settings import Optimizer, Training

Tree = Any
_SAMPLES = 2**20  # normal samples at a time
LECAM_AVERAGES = ('real', 'fake', 'real_stage1', 'fake_stage1')


class AugmentState(flax.struct.PyTreeNode):
  """State of adaptive augmentation (ADA, arXiv 2006.06676, section 3.2).

  Attributes:
    probability: float32 [], of each transform.
    sign_sum: float32 [], sum of the mean sign of real logits since its last update.
    sign_count: float32 [], number of steps in that sum.
  """

  probability: jax.Array
  sign_sum: jax.Array
  sign_count: jax.Array


class TrainState(flax.struct.PyTreeNode):
  """Parameters, optimisers, and the position in the run.

  Attributes:
    step: int32 [], steps done.
    images_seen: int32 [], real images shown; also the position in the data.
    warmup_images: int32 [], images until which the generator is frozen, because the
      run began with a generator that came without its discriminator; else 0.
    key: uint32 key data from which every step derives its randomness.
    g_params: generator.
    g_buffers: its `w_avg` and constant noise.
    d_params: discriminator.
    ema_params: exponential moving average of `g_params`.
    ema_buffers: copy of `g_buffers`.
    g_optimizer: optax state.
    d_optimizer: optax state.
    augment: of adaptive augmentation.
    lecam: moving averages of the logits: 'real', 'fake', 'real_stage1', 'fake_stage1'.
    totals: metric accumulators since the last tick; see `accumulators`.
    loss_scale: of a run in float16, by network; None in other dtypes.
    gradient_norms: their accumulators since the last tick; None in checkpoints of older versions.
  """

  step: jax.Array
  images_seen: jax.Array
  warmup_images: jax.Array
  key: jax.Array
  g_params: Tree
  g_buffers: Tree
  d_params: Tree
  ema_params: Tree
  ema_buffers: Tree
  g_optimizer: Tree
  d_optimizer: Tree
  augment: AugmentState
  lecam: dict[str, jax.Array]
  totals: accumulators.Accumulators
  loss_scale: LossScales | None = None
  gradient_norms: accumulators.Accumulators | None = None


def _finite(gradients: Tree) -> Tree:
  return jax.tree.map(lambda g: jnp.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5), gradients)


def _names(path: tuple[Any, ...]) -> list[str]:
  return [str(getattr(key, 'key', key)) for key in path]


def make_optimizer(settings: Optimizer, interval: int,
                   frozen: Collection[str] = ()) -> optax.GradientTransformation:
  """Adam for one network, rescaled for a regulariser every `interval` steps.

  The rescaling is StyleGAN2's (arXiv 1912.04958, appendix B): with the factor
  c = interval / (interval + 1), the learning rate is lr * c and beta2 becomes
  beta2**c. With beta1 = 0 no first moment is stored.

  Args:
    settings: rates and decays.
    interval: steps between two applications of the regulariser.
    frozen: names of modules whose parameters stay as they are.

  Returns:
    The transformation; non-finite gradients become 0 or +-1e5 first.
  """
  ratio = interval / (interval + 1)
  beta1, beta2 = settings.beta1**ratio, settings.beta2**ratio
  if beta1:
    adam = optax.scale_by_adam(beta1, beta2, settings.epsilon)
  else:
    adam = optax.scale_by_rms(
        beta2, settings.epsilon, eps_in_sqrt=False, bias_correction=True)
  own = settings.transformer_learning_rate

  def rate(path: tuple[Any, ...]) -> float:
    names = _names(path)
    if any(name in frozen for name in names):
      return 0.0
    is_transformer = any('tran' in name for name in names)
    return own if is_transformer and own is not None else settings.learning_rate

  def scale(updates: Tree, params: Tree | None = None) -> Tree:
    del params
    return jax.tree_util.tree_map_with_path(lambda path, u: u * (-ratio * rate(path)), updates)

  return optax.chain(
      optax.stateless(lambda gradients, params=None: _finite(gradients)), adam,
      optax.stateless(scale))


def make_optimizers(
    settings: Training) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
  """The optimisers of generator and discriminator."""
  options = settings.optimizer
  return (make_optimizer(options, options.generator_interval),
          make_optimizer(options, options.discriminator_interval, settings.frozen_d_modules))


def fresh_variables(key: jax.Array, module: nn.Module, *inputs: Tree) -> Tree:
  """Variables distributed as those of `module.init`, from one array of normal samples.

  `module.init` samples each of hundreds of kernels, which takes half a minute to compile.

  Args:
    key: typed key.
    module: network, or a part of one that has a field `implementation`.
    *inputs: of a pass.

  Returns:
    The variables; every element is a mean plus a standard deviation times a normal sample, with
    the means and deviations of `module.init`, but not its values.
  """
  def variables(normal: Callable[[float], nn.initializers.Initializer]) -> Tree:
    implementation = dataclasses.replace(module.implementation or for_platform(), normal=normal)
    return module.clone(implementation=implementation).lazy_init(key, *inputs)

  means, structure = jax.tree.flatten(variables(lambda deviation: nn.initializers.zeros))
  maxima = jax.tree.leaves(variables(nn.initializers.constant))
  ends = np.cumsum([mean.size for mean in means])
  # In a loop, as XLA would compile a single sampling again for each slice of its result.
  keys = jax.random.split(key, -(-ends[-1] // _SAMPLES))
  samples = jax.lax.map(lambda key: jax.random.normal(key, (_SAMPLES,)), keys).reshape(-1)
  parts = jnp.split(samples[:ends[-1]], ends[:-1])
  return jax.tree.unflatten(structure, (
      mean + (maximum - mean) * part.reshape(mean.shape)
      for mean, maximum, part in zip(means, maxima, parts, strict=True)))


def create(key: jax.Array, generator: Generator, discriminator: Discriminator,
           settings: Training, projected: ProjectedDiscriminator | None = None) -> TrainState:
  """A fresh state.

  Args:
    key: typed key; initial weights and all later randomness come from it.
    generator: module.
    discriminator: module.
    settings: of the step.
    projected: discriminator on features, or None.

  Returns:
    The state; run it under `jax.jit`, or `jax.eval_shape` for its shapes.
  """
  g_key, d_key, run_key = jax.random.split(key, 3)
  side = generator.resolution
  image, mask, z = jnp.zeros((1, side, side, 3)), jnp.ones((1, side, side, 1)), jnp.zeros((1, 512))
  g_variables = fresh_variables(g_key, generator, image, mask, z)
  d_params = fresh_variables(d_key, discriminator, image, mask, image)['params']
  if projected:
    d_params[PARAMS] = fresh_variables(
        jax.random.fold_in(d_key, 1), projected, _no_features(side), mask)['params']
  g_optimizer, d_optimizer = make_optimizers(settings)
  g_params, g_buffers = g_variables['params'], g_variables['buffers']
  return TrainState(
      step=jnp.int32(0), images_seen=jnp.int32(0), warmup_images=jnp.int32(0),
      key=jax.random.key_data(run_key),
      g_params=g_params, g_buffers=g_buffers, d_params=d_params,
      ema_params=jax.tree.map(jnp.copy, g_params), ema_buffers=jax.tree.map(jnp.copy, g_buffers),
      g_optimizer=g_optimizer.init(g_params), d_optimizer=d_optimizer.init(d_params),
      augment=AugmentState(
          probability=jnp.float32(settings.augmentation.probability),
          sign_sum=jnp.float32(0.0), sign_count=jnp.float32(0.0)),
      lecam={name: jnp.float32(0.0) for name in LECAM_AVERAGES},
      totals=accumulators.empty(_optional_losses(settings, projected)),
      loss_scale=loss_scale.fresh() if generator.dtype == jnp.float16 else None,
      gradient_norms=accumulators.no_norms())


def _no_features(side: int) -> dict[str, jax.Array]:
  """Features of one image, of the shapes that VGG16's have."""
  shapes = zip(LAYERS, (128, 256, 512, 512), strict=True)
  return {layer: jnp.zeros((1, side >> i, side >> i, channels))
          for i, (layer, channels) in enumerate(shapes, 1)}


def _optional_losses(settings: Training, projected: ProjectedDiscriminator | None) -> list[str]:
  return ([name for name in ('loss/lpips',) if settings.lpips_weight]
          + [f'loss/{network}_projected' for network in 'gd' if projected])
