"""Compiles single layers at full size for a TPU, with XLA's estimate of forward and backward pass.

  python -m benchmarks.compiled.tpu_layers --layers=dec_conv_1 --layers=conv_first --dearest=5
  python -m benchmarks.compiled.tpu_layers --layers=conv_180 --xla=xla_tpu_scoped_vmem_limit_kib=16384

A layer takes a minute to compile, where the step takes many. Each is compiled for one chip, in
bfloat16, with XLA's options of training, inputs and results in layouts that XLA chooses; its
gradients are those of all inputs and parameters. Within a network XLA may have to compromise. The
last line is JSON.
"""

from collections.abc import Callable
import dataclasses
import json
import os
import time
from typing import Any

from absl import flags
from flax import linen as nn
import jax
import jax.numpy as jnp

from benchmarks.compiled import tpu_aot, tpu_cycles, tpu_estimate
from benchmarks.peaks import Peak
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.nn import blocks, discriminator, transformer
from mat_jax.nn.layers import Conv2d
from mat_jax.nn.modulation import ToRGB
from mat_jax.ops.implementation import Implementation, for_platform
from mat_jax.runtime import command_line
from mat_jax.training.step import aot

Tree = Any
Shape = tuple[int, ...]

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'See `benchmarks.compiled.tpu_aot`.',
    flag_values=_FLAGS)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Images.', flag_values=_FLAGS)
_LAYERS = flags.DEFINE_multi_string('layers', [], 'Names of layers; all without it.',
    flag_values=_FLAGS)
_DEAREST = flags.DEFINE_integer('dearest', 0, 'Instructions to show of each.', flag_values=_FLAGS)
_FORWARD = flags.DEFINE_bool('forward', False, 'Leaves out the backward pass.', flag_values=_FLAGS)
_FIELDS = flags.DEFINE_multi_string('implementation', [], 'FIELD=VALUE of `Implementation`, '
                                    'instead of what a TPU takes.', flag_values=_FLAGS)
_OPTIONS = flags.DEFINE_multi_string('xla', [], 'NAME=VALUE, an option of XLA.',
    flag_values=_FLAGS)
_LEVEL = flags.DEFINE_string('optimization_level', 'O1', 'See `benchmarks.compiled.tpu_aot`.',
    flag_values=_FLAGS)
_HLO = flags.DEFINE_string('hlo', '', 'Folder for the HLO text.', flag_values=_FLAGS)
_WIDE, _STYLE = 180, 512  # channels of stage one; of a style


@dataclasses.dataclass(frozen=True)
class Layer:
  """A module and the shapes of its inputs, those of an image.

  Attributes:
    module: makes the module of an implementation.
    inputs: shapes without the batch; a tree.
    static: arguments after them that are no arrays.
  """

  module: Callable[[Implementation], nn.Module]
  inputs: tuple[Any, ...]
  static: tuple[Any, ...] = ()


def _partial(inputs: int, side: int, down: int) -> Layer:
  return Layer(lambda i: transformer.PartialConv2d(_WIDE, 3, down=down, implementation=i),
               ((side, side, inputs), (side, side, 1)))


def _synthesis(features: int, inputs: int, side: int, style: int, noise: bool) -> Layer:
  half = side // 2
  styles = ((style,),) * 3
  return Layer(lambda i: blocks.SynthesisBlock(features, side, noise, i),
               ((half, half, inputs), (half, half, 3), (side, side, features), styles),
               ('const' if noise else 'none',))


def _stage(depth: int, window: int, side: int, up: int = 1, down: int = 1) -> Layer:
  start = side * down // up
  return Layer(lambda i: transformer.TransformerStage(depth, 6, window, side, up, down,
                                                      implementation=i), ((start, start, _WIDE),))


def layers() -> dict[str, Layer]:
  """The dear layers of the step at 256 px, by the names that the networks give them."""
  def convolution(size: int, side: int, inputs: int, features: int) -> Layer:
    return Layer(lambda i: Conv2d(features, size, implementation=i), ((side, side, inputs),))

  return {
      'conv_first': _partial(4, 256, 1), 'enc_conv_0': _partial(_WIDE, 256, 2),
      'enc_conv_1': _partial(_WIDE, 128, 2),
      'dec_conv_0': _synthesis(_WIDE, _WIDE, 128, 3 * _WIDE, False),
      'dec_conv_1': _synthesis(_WIDE, _WIDE, 256, 3 * _WIDE, False),
      'tran_0': _stage(2, 8, 64), 'tran_1': _stage(3, 16, 32, down=2),
      'enc_256': Layer(lambda i: blocks.EncoderBlock(128, True, i), ((256, 256, 7),)),
      'enc_128': Layer(lambda i: blocks.EncoderBlock(256, False, i), ((256, 256, 128),)),
      'enc_64': Layer(lambda i: blocks.EncoderBlock(512, False, i), ((128, 128, 256),)),
      'dec_64': _synthesis(512, 512, 64, _STYLE + 1024, True),
      'dec_128': _synthesis(256, 512, 128, _STYLE + 1024, True),
      'dec_256': _synthesis(128, 256, 256, _STYLE + 1024, True),
      'to_rgb_256': Layer(lambda i: ToRGB(implementation=i),
                          ((256, 256, 128), (_STYLE + 1024,), (128, 128, 3))),
      'from_rgb': convolution(1, 256, 4, 128),
      'dis_256': Layer(lambda i: discriminator.DiscriminatorBlock(256, i), ((256, 256, 128),)),
      'dis_128': Layer(lambda i: discriminator.DiscriminatorBlock(512, i), ((128, 128, 256),)),
      'dis_stage1_256': Layer(
          lambda i: nn.Sequential([
              Conv2d(64, 1, folded=i.folded_channels >= 64, implementation=i),
              discriminator.DiscriminatorBlock(128, i)]), ((256, 256, 4),)),
      'conv_180': convolution(3, 256, _WIDE, _WIDE), 'conv_128': convolution(3, 256, 128, 128)}


def program(layer: Layer, implementation: Implementation, images: int,
            forward: bool) -> tuple[Callable[..., Tree], tuple[Tree, ...]]:
  """A layer's results, or its gradients by inputs and parameters, and the arguments' shapes."""
  module = layer.module(implementation)

  def with_batch(shape: Shape) -> jax.ShapeDtypeStruct:
    # Images and masks are float32, maps in the compute dtype.
    is_map = len(shape) == 3 and shape[-1] > 7
    dtype = implementation.dtype if is_map else jnp.float32
    return jax.ShapeDtypeStruct((images, *shape), dtype)

  inputs = jax.tree.map(with_batch, layer.inputs,
                        is_leaf=lambda x: isinstance(x, tuple) and all(
                            isinstance(n, int) for n in x))
  variables = jax.eval_shape(
      lambda *inputs: module.init(jax.random.key(0), *inputs, *layer.static), *inputs)

  def run(params: Tree, rest: Tree, inputs: Tree) -> Tree:
    return module.apply({'params': params, **rest}, *inputs, *layer.static)

  params = variables['params']
  rest = {name: value for name, value in variables.items() if name != 'params'}
  if forward:
    return run, (params, rest, inputs)

  def gradients(params: Tree, rest: Tree, inputs: Tree, changes: Tree) -> Tree:
    results, back = jax.vjp(lambda params, inputs: run(params, rest, inputs), params, inputs)
    return results, back(changes)

  changes = jax.eval_shape(run, params, rest, inputs)
  return gradients, (params, rest, inputs, changes)


def check(names: list[str]) -> list[str]:
  """The names, or those of all layers if there are none.

  Raises:
    UserError: there is no such layer.
  """
  known = layers()
  if unknown := set(names) - known.keys():
    raise UserError(f'--layers knows no {", ".join(sorted(unknown))}; it knows {", ".join(known)}')
  return names or list(known)


def measure(name: str, implementation: Implementation, chip: Peak, device: jax.Device,
            options: dict[str, Any]) -> dict[str, Any]:
  """Compiles a layer, prints its figures and returns them."""
  function, arguments = program(layers()[name], implementation, _BATCH_SIZE.value, _FORWARD.value)
  begun = time.perf_counter()
  text = tpu_estimate.compile_alone(function, arguments, device, options)
  if _HLO.value:
    os.makedirs(_HLO.value, exist_ok=True)
    with open(os.path.join(_HLO.value, f'{name}.txt'), 'w') as file:
      file.write(text)
  found = tpu_cycles.executed(text, chip)
  total = 1e3 * tpu_cycles.seconds(found)
  print(f'{name:16} {total:8.2f} ms, compiled in {time.perf_counter() - begun:.0f} s')
  for line in tpu_cycles.dearest(found, _DEAREST.value):
    print(f'  {line}')
  return {'ms': total}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  names = check(_LAYERS.value)
  chip, devices = tpu_aot.open_topology(_TOPOLOGY.value)
  jax.config.update('jax_optimization_level', _LEVEL.value)
  pairs = (field.split('=', 1) for field in _FIELDS.value)
  changed: dict[str, Any] = {
      name: int(value) if value.isdigit() else value for name, value in pairs}
  implementation = dataclasses.replace(for_platform(jnp.bfloat16, 'tpu'), **changed)
  options = {**aot.tpu_options(devices[0].device_kind), **dict(option.split('=', 1) for option in _OPTIONS.value)}
  found = {name: measure(name, implementation, chip, devices[0], options)
           for name in names}
  print(json.dumps({'jax': jax.__version__, 'topology': _TOPOLOGY.value,
                    'batch_size': _BATCH_SIZE.value, 'forward': _FORWARD.value,
                    'implementation': _FIELDS.value, 'xla': _OPTIONS.value,
                    'optimization_level': _LEVEL.value, 'layers': found}))


if __name__ == '__main__':
  command_line.run(main, [])
