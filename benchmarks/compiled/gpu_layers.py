"""Compiles single layers with their gradients for an NVIDIA card, to try a change in seconds.

  python -m benchmarks.compiled.gpu_layers --layers=discriminator_block
  python -m benchmarks.compiled.gpu_layers --layers=synthesis_block --fir=shifted_adds --largest=20

Layers of the published networks at 256 px, those with the largest maps. Implementations are those
for GPUs but for the flags that change one. Printed are the bytes of all kernels, by the compiler's
text, and the largest ones; see `gpu_aot`, whose step is what counts in the end. The last line is
JSON. Needs the extra `gpu-aot`.
"""

from collections.abc import Callable
import dataclasses
import json
from typing import Any

from absl import app, flags
from flax import linen as nn
import jax
import jax.numpy as jnp

from benchmarks import abstract_step
from benchmarks.compiled import gpu_aot, gpu_hlo, gpu_target, kernel_report
from mat_jax.errors import exit_on_user_error
from mat_jax.features import vgg
from mat_jax.nn import blocks, discriminator, transformer
from mat_jax.ops.implementation import Implementation, for_platform
from mat_jax.runtime import sharding

Tree = Any
# A function of (what has gradients, arguments), and the shapes of both.
Layer = tuple[Callable[..., Tree], Tree, Tree]

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()


def _shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sizes, dtype)


def _module(module: nn.Module, static: tuple[Any, ...], *inputs: Tree) -> Layer:
  """A Flax module, with gradients of its parameters and inputs."""
  variables = jax.eval_shape(
      lambda key, inputs: module.init(key, *inputs, *static), jax.random.key(0), inputs)
  params = variables.pop('params')

  def run(varied: Tree, buffers: Tree) -> Tree:
    params, inputs = varied
    return module.apply({'params': params, **buffers}, *inputs, *static)

  return run, (params, inputs), variables


def _synthesis(features: int, wide: int, style: int, has_noise: bool) -> Callable[..., Layer]:
  def make(images: int, implementation: Implementation) -> Layer:
    block = implementation.block(blocks.SynthesisBlock, static_argnums=(4,), modulated=True)
    dtype = implementation.dtype
    return _module(
        block(features, 256, has_noise, implementation), ('const' if has_noise else 'none',),
        _shape(images, 128, 128, wide, dtype=dtype), _shape(images, 128, 128, 3),
        _shape(images, 256, 256, features, dtype=dtype), (_shape(images, style),) * 3)
  return make


def _map(module: Callable[[Implementation], nn.Module], side: int, features: int,
         has_mask: bool = False) -> Callable[..., Layer]:
  def make(images: int, implementation: Implementation) -> Layer:
    mask = (_shape(images, side, side, 1),) if has_mask else ()
    return _module(module(implementation), (), _shape(
        images, side, side, features, dtype=implementation.dtype), *mask)
  return make


def _vgg(images: int, implementation: Implementation) -> Layer:
  """The perceptual network, with the gradient of the images alone."""
  def run(image: jax.Array, params: Tree) -> Tree:
    return vgg.vgg_features(params, vgg.imagenet_normalize(image), vgg.perceptual_layers('vgg16'),
                            'vgg16', implementation.dtype, implementation.is_lean)
  return run, _shape(images, 256, 256, 3), abstract_step.vgg_shapes('vgg16')


LAYERS: dict[str, Callable[[int, Implementation], Layer]] = {
    'synthesis_block': _synthesis(128, 256, 1024, True),
    'synthesis_block_of_stage1': _synthesis(180, 180, 540, False),
    'encoder_block': _map(lambda x: blocks.EncoderBlock(256, implementation=x), 256, 128),
    'first_encoder_block': _map(lambda x: blocks.EncoderBlock(128, True, x), 256, 7),
    'discriminator_block': _map(lambda x: discriminator.DiscriminatorBlock(256, x), 256, 128),
    'partial_convolution': _map(
        lambda x: transformer.PartialConv2d(180, 3, down=2, implementation=x), 256, 180, True),
    'transformer_block': _map(
        lambda x: transformer.TransformerBlock(6, 8, 4, implementation=x), 64, 180, True),
    'vgg': _vgg}

_TARGET = flags.DEFINE_enum('target', 'h100', gpu_target.NAMES, 'The card.', flag_values=_FLAGS)
_LAYERS = flags.DEFINE_multi_enum('layers', list(LAYERS), list(LAYERS),
                                  'What to compile; several times for several.', flag_values=_FLAGS)
_BATCH = flags.DEFINE_integer('batch', 8, 'Images.', lower_bound=1, flag_values=_FLAGS)
_DTYPE = flags.DEFINE_enum('dtype', None, ('float32', 'bfloat16', 'float16'),
                           'Of activations; by default that of the card.', flag_values=_FLAGS)
_IMPLEMENTATIONS = flags.DEFINE_enum('implementations', 'gpu', ['cpu', 'gpu', 'tpu', 'compact'],
                                     'Those of the heavy operations.', flag_values=_FLAGS)
_CHANGES = {
    name: flags.DEFINE_enum(name, None, values, f'Instead of theirs, Implementation.{name}.',
                            flag_values=_FLAGS)
    for name, values in {
        'fir': ['shifted_adds', 'taps', 'depthwise'], 'equalized': ['results', 'kernels'],
        'elementwise': ['plain', 'lean']}.items()}
_LARGEST = flags.DEFINE_integer('largest', 0, 'Kernels to list.', lower_bound=0, flag_values=_FLAGS)


def compile_layer(target: gpu_target.Target, layer: Layer) -> tuple[str, int]:
  """The HLO text of a layer with its gradients, and bytes of temporary arrays."""
  run, varied, rest = layer
  replicated = sharding.replicated(gpu_target.mesh(target, 1))

  def with_gradients(varied: Tree, rest: Tree, gradient: Tree) -> Tree:
    result, pull = jax.vjp(lambda varied: run(varied, rest), varied)
    return result, pull(gradient)

  arguments = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
      (varied, rest, jax.eval_shape(run, varied, rest)))
  compiled = jax.jit(with_gradients).lower(*arguments).compile()
  text, memory = compiled.as_text(), compiled.memory_analysis()
  assert text is not None and memory is not None
  return text, memory.temp_size_in_bytes


def report(target: gpu_target.Target, text: str, temporary: int) -> dict[str, Any]:
  """The figures of a layer: gigabytes moved, by kind of kernel, and a bound in milliseconds."""
  kernels = gpu_hlo.kernels(text)
  moved = dict.fromkeys(('convolution', 'matmul', 'elementwise'), 0.0)
  for kernel in kernels:
    moved[kernel_report.kind(kernel)] += kernel.bytes / 1e9
  return {'gb_moved': sum(moved.values()), **{f'gb_{kind}': gb for kind, gb in moved.items()},
          'kernels': len(kernels), 'temporary_bytes': temporary,
          'ms_at_limits': 1e3 * gpu_hlo.seconds(kernels, target.peaks, target.bandwidth),
          'largest': kernel_report.largest(kernels, _LARGEST.value)}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  # The CUDA plugin would look for a card, and fail.
  jax.config.update('jax_platforms', 'cpu')
  target = gpu_target.read(_TARGET.value)
  dtype = gpu_aot.chosen_dtype(target, _DTYPE.value)
  changes: dict[str, Any] = {
      name: flag.value for name, flag in _CHANGES.items() if flag.value}
  implementation = dataclasses.replace(
      for_platform(jnp.dtype(dtype), _IMPLEMENTATIONS.value), **changes)
  found = {}
  for name in _LAYERS.value:
    made = LAYERS[name](_BATCH.value, implementation)
    found[name] = gpu_aot.rounded(report(target, *compile_layer(target, made)))
    print(f"{name}: {found[name]['gb_moved']:.3f} GB, {found[name]['gb_elementwise']:.3f} of them "
          f"elementwise, in {found[name]['kernels']} kernels", flush=True)
    print('\n'.join(kernel_report.lines(found[name]['largest'])), flush=True)
  print(json.dumps({'jax': jax.__version__, 'target': target.name, 'dtype': dtype,
                    'batch': _BATCH.value, 'implementations': _IMPLEMENTATIONS.value,
                    'changes': changes, 'layers': found}))


if __name__ == '__main__':
  app.run(main)
