"""The networks and the training step as abstract shapes, to be lowered without data or devices.

`AbstractStep` is what `tpu_aot`, `gpu_aot` and `device` compile: the networks of
`configs/base.py`, settings, and the shapes and shardings of state, weights and batch.

  made = make(Case(256, 8, 'bfloat16', 'tpu'), mesh)
  function, arguments = made.step()
  function.lower(*arguments).compile()
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from configs import base
from mat_jax.features import vgg
from mat_jax.nn import model_config
from mat_jax.runtime import sharding
from mat_jax.training.step import aot, gradients, objectives, random_inputs, settings, train_step
from mat_jax.training.step.objectives import Networks
from mat_jax.training.step.settings import Training
from mat_jax.training.step.train_state import TrainState, create

Tree = Any
# A jitted function and the shapes of its arguments.
Program = tuple[jax.stages.Wrapped | aot.AotFunction, tuple[Tree, ...]]

_VGG_WIDTHS = (64, 128, 256, 512, 512)  # of the five blocks (Simonyan & Zisserman 2015, table 1)


@dataclasses.dataclass(frozen=True)
class Case:
  """What to compile.

  Attributes:
    resolution: side of the images.
    batch_size: images of a step, over all devices.
    dtype: 'float32', 'bfloat16' or 'float16', of activations.
    implementations: of the heavy operations, 'auto', 'cpu', 'gpu' or 'tpu'.
    remat: blocks recompute their activations in the backward pass.
    microbatch: images whose gradients are computed at a time, over all devices; None for all.
    width: channel multiplier.
  """

  resolution: int
  batch_size: int
  dtype: str
  implementations: str
  remat: bool = False
  microbatch: int | None = None
  width: float = 1.0


@dataclasses.dataclass(frozen=True)
class AbstractStep:
  """Modules, settings and the shapes of all arguments of the functions.

  Attributes:
    networks: modules.
    settings: of the step.
    mesh: devices; None for a single device.
    state: shapes and shardings of the training state.
    features: those of the perceptual network's weights.
    batch: those of a batch.
  """

  networks: Networks
  settings: Training
  mesh: Mesh | None
  state: TrainState
  features: Tree
  batch: objectives.Batch

  @property
  def context(self) -> gradients.Context:
    """The `Context` of the phases of the step."""
    return gradients.Context(self.networks, self.settings, self.mesh)

  def generator(self) -> Program:
    """Inference with constant noise: images and masks -> result and stage one."""
    shapes = jax.eval_shape(self._draw, self.state)
    z, keep_masks = self._place((shapes.z, shapes.keep_masks), by_batch=True)

    def run(params: Tree, buffers: Tree, batch: objectives.Batch, z: jax.Array,
            keep_masks: Tree) -> tuple[jax.Array, jax.Array]:
      return cast(tuple[jax.Array, jax.Array], self.networks.generator.apply(
          {'params': params, 'buffers': buffers}, batch['image'], batch['mask'], z,
          keep_masks=keep_masks))

    return jax.jit(run), (self.state.ema_params, self.state.ema_buffers, self.batch, z, keep_masks)

  def discriminator(self) -> Program:
    """Images, masks and the images again for stage one -> logits of both branches."""
    def run(params: Tree, batch: objectives.Batch) -> tuple[jax.Array, jax.Array]:
      return cast(tuple[jax.Array, jax.Array], self.networks.discriminator.apply(
          {'params': params}, batch['image'], batch['mask'], batch['image']))

    return jax.jit(run), (self.state.d_params, self.batch)

  def generator_gradient(self) -> Program:
    """Forward and backward pass of the generator as in training, for a squared error."""
    inputs = self._place(jax.eval_shape(self._draw, self.state), by_batch=True)

    def loss(params: Tree, buffers: Tree, examples: Tree) -> tuple[jax.Array, objectives.Metrics]:
      batch, drawn = examples['batch'], examples['random_inputs']
      image, stage1 = objectives.generate(
          self.networks, params, buffers, batch, drawn, self.settings)
      return (jnp.mean(jnp.square(image - batch['image']))
              + jnp.mean(jnp.square(stage1 - batch['image']))), {}

    def run(params: Tree, buffers: Tree, batch: objectives.Batch, drawn: Tree) -> Tree:
      return self.context.gradients(
          loss, params, buffers, {'batch': batch, 'random_inputs': drawn})[0]

    return self._jit(run, donated=()), (
        self.state.g_params, self.state.g_buffers, self.batch, inputs)

  def discriminator_gradient(self) -> Program:
    """Forward and backward pass of both branches of the discriminator, by their parameters."""
    def loss(params: Tree, _: Tree, batch: objectives.Batch) -> tuple[
        jax.Array, objectives.Metrics]:
      both = self.networks.discriminator.apply(
          {'params': params}, batch['image'], batch['mask'], batch['image'])
      return jnp.mean(cast(jax.Array, sum(both))), {}

    def run(params: Tree, batch: objectives.Batch) -> Tree:
      return self.context.gradients(loss, params, {}, batch)[0]

    return self._jit(run, donated=()), (self.state.d_params, self.batch)

  def step(self) -> Program:
    """The training step as it is run, R1 under its `lax.cond`."""
    arguments = self.state, self.features, self.batch
    if self.mesh is None:
      return jax.jit(train_step.make_train_step(self.context), donate_argnums=0), arguments
    return aot.compiled_step(self.networks, self.settings, self.mesh), arguments

  def main_step(self) -> Program:
    """The step without R1: Gmain, Dmain, both steps of Adam and the EMA update."""
    def run(state: TrainState, features: Tree, batch: objectives.Batch) -> TrainState:
      g_key, d_key = jax.random.split(jax.random.wrap_key_data(state.key))
      state, _ = train_step.update_generator(state, features, batch, g_key, self.context)
      state, _ = train_step.update_discriminator(state, features, batch, d_key, self.context)
      return train_step.update_ema(state, self.settings)

    return self._jit(run), (self.state, self.features, self.batch)

  def regularizer(self) -> Program:
    """Dreg and its step of Adam, once every `settings.r1_interval` steps."""
    def run(state: TrainState, batch: objectives.Batch) -> TrainState:
      key = jax.random.wrap_key_data(state.key)
      return train_step.regularize_discriminator(state, batch, key, self.context)[0]

    return self._jit(run), (self.state, self.batch)

  def gradient_bytes(self) -> int:
    """One copy of the float32 gradients of Gmain, Dmain and Dreg."""
    count = {name: sum(x.size for x in jax.tree.leaves(getattr(self.state, name)))
             for name in ('g_params', 'd_params')}
    return 4 * (count['g_params'] + 2 * count['d_params'])

  def _draw(self, state: TrainState) -> random_inputs.RandomInputs:
    key = jax.random.wrap_key_data(state.key)
    return random_inputs.sample(key, self.networks.generator, state.g_buffers,
                                state.augment.probability,
                      self.settings)

  def _jit(self, function: Callable[..., Any],
           donated: tuple[int, ...] = (0,)) -> jax.stages.Wrapped:
    if self.mesh is None:
      return jax.jit(function, donate_argnums=donated)
    return jax.jit(function, out_shardings=sharding.replicated(self.mesh), donate_argnums=donated,
                   compiler_options=aot.compiler_options(self.mesh))

  def _place(self, tree: Tree, by_batch: bool = False) -> Tree:
    return _placed(tree, self.mesh, by_batch)


def make(case: Case, mesh: Mesh | None = None) -> AbstractStep:
  """The functions of a case.

  Args:
    case: what to compile.
    mesh: its devices; None for a single device.

  Returns:
    Modules, settings and shapes; nothing is computed or loaded.

  Raises:
    UserError: the case is none that could be trained.
  """
  config = base.get_config()
  config.model.update(resolution=case.resolution, dtype=case.dtype, width=case.width)
  config.train.update(batch_size=case.batch_size, microbatch=case.microbatch or case.batch_size,
                      remat=case.remat)
  if mesh is not None:
    sharding.check_batch_size(case.batch_size, mesh, 'train.batch_size')
  networks = Networks(
      model_config.generator_from_config(config.model, case.implementations, case.remat),
      model_config.discriminator_from_config(config.model, case.implementations, case.remat))
  training = settings.training_from_config(config)
  state = jax.eval_shape(
      functools.partial(create, generator=networks.generator,
                        discriminator=networks.discriminator, settings=training),
      jax.random.key(0))
  side = case.resolution
  batch = {'image': jax.ShapeDtypeStruct((case.batch_size, side, side, 3), jnp.float32),
           'mask': jax.ShapeDtypeStruct((case.batch_size, side, side, 1), jnp.float32)}
  return AbstractStep(
      networks, training, mesh, _placed(state, mesh),
      _placed(vgg_shapes(networks.feature_network), mesh), _placed(batch, mesh, by_batch=True))


def vgg_shapes(network: str) -> Tree:
  """Shapes of the weights of the perceptual network, 'vgg16' or 'vgg19'."""
  shapes, width = {}, 3
  for name in vgg.conv_names(network):
    features = _VGG_WIDTHS[int(name[len('conv')]) - 1]
    shapes[name] = {'kernel': jax.ShapeDtypeStruct((3, 3, width, features), jnp.float32),
                    'bias': jax.ShapeDtypeStruct((features,), jnp.float32)}
    width = features
  return shapes


def _placed(tree: Tree, mesh: Mesh | None, by_batch: bool = False) -> Tree:
  """The shapes with the shardings that training gives them."""
  if mesh is None:
    return tree
  where = sharding.by_batch(mesh) if by_batch else sharding.replicated(mesh)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
