"""Compares XLA's estimate of single operations on a TPU with the rates that Google publishes.

  python -m benchmarks.compiled.tpu_estimate --topology=v5e:2x2

Large matmuls and convolutions should take operations / peak, what only reads and writes bytes /
bandwidth (`benchmarks.peaks`), which is also what nothing can beat. The ratio of the estimate
(`benchmarks.compiled.tpu_cycles`) to that says how far it can be believed. The last line is JSON.
"""

from collections.abc import Callable
import dataclasses
import json
import math
from typing import Any

from absl import flags
import jax
from jax import lax
from jax.experimental.layout import Format, Layout
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from benchmarks.compiled import tpu_aot, tpu_cycles
from benchmarks.peaks import Peak
from mat_jax.errors import exit_on_user_error
from mat_jax.runtime import command_line
from mat_jax.training.step import aot

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'See `benchmarks.compiled.tpu_aot`.',
    flag_values=_FLAGS)
_LEVEL = flags.DEFINE_string('optimization_level', 'O1', 'See `benchmarks.compiled.tpu_aot`.',
    flag_values=_FLAGS)
_OPTIONS = flags.DEFINE_multi_string('xla', [], 'NAME=VALUE, an option of XLA, beside those of '
                                     'training.', flag_values=_FLAGS)


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation of bfloat16 arrays.

  Attributes:
    name: for the table.
    function: of arrays of these shapes.
    shapes: of its arguments.
    flops: that it needs.
    moved: entries that it has to read and write.
  """

  name: str
  function: Callable[..., jax.Array]
  shapes: tuple[tuple[int, ...], ...]
  flops: int = 0
  moved: int = 0

  def published(self, chip: Peak) -> float:
    """Seconds at the published rates of a chip."""
    return chip.roofline(self.flops, 2 * self.moved)


def _matmul(m: int, k: int, n: int) -> Operation:
  return Operation(f'matmul {m} x {k} x {n}', jnp.matmul, ((m, k), (k, n)), 2 * m * k * n,
                   m * k + k * n + m * n)


def _convolution(images: int, side: int, inputs: int, outputs: int) -> Operation:
  def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME',
                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  # Without the taps that meet the padding.
  taps = (3 * side - 2)**2
  return Operation(
      f'3x3 convolution, {images} x {side} x {side}, {inputs} to {outputs}', convolve,
      ((images, side, side, inputs), (3, 3, inputs, outputs)), 2 * images * taps * inputs * outputs,
      images * side**2 * (inputs + outputs))


def _elementwise(name: str, function: Callable[..., jax.Array], shape: tuple[int, ...],
                 passes: int) -> Operation:
  return Operation(name, function, (shape,), moved=passes * math.prod(shape))


def operations() -> list[Operation]:
  """What is compared: large products, and passes over maps."""
  maps = (8, 256, 256, 512)
  return [
      *(_matmul(size, size, size) for size in (2048, 4096, 8192)),
      _convolution(8, 64, 512, 512), _convolution(8, 128, 256, 256),
      _convolution(8, 256, 128, 128), _convolution(8, 256, 180, 180),
      _elementwise('x * 2 + 1, 512 channels', lambda x: x * 2 + 1, maps, 2),
      _elementwise('x * 2 + 1, 180 channels', lambda x: x * 2 + 1, (*maps[:3], 180), 2),
      _elementwise('sum over all but channels', lambda x: jnp.sum(x, (0, 1, 2)), maps, 1),
      _elementwise('sum over channels', lambda x: jnp.sum(x, 3), maps, 1)]


def compile_alone(function: Callable[..., Any], arguments: Any, device: jax.Device,
                  options: dict[str, Any] | None = None) -> str:
  """The HLO text of a function compiled for one device, in layouts of XLA's own choice.

  Args:
    function: to be compiled.
    arguments: shapes, a tuple of trees.
    device: that it is for.
    options: of XLA.
  """
  mesh, everywhere = Mesh(np.array([device]), ('data',)), PartitionSpec()
  # Inside shard_map, as in training: `mat_jax.ops.window_kernel` needs it.
  function = jax.shard_map(function, mesh=mesh, in_specs=everywhere, out_specs=everywhere,
                           check_vma=False)
  chosen = Format(Layout.AUTO, NamedSharding(mesh, everywhere))
  text = jax.jit(function, in_shardings=chosen, out_shardings=chosen,
                 compiler_options=options).lower(*arguments).compile().as_text()
  assert text is not None
  return text


def compare(operation: Operation, chip: Peak, device: jax.Device) -> dict[str, Any]:
  """Milliseconds of an operation, estimated and published, and their ratio."""
  arguments = tuple(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in operation.shapes)
  options = aot.tpu_options(device.device_kind) | dict(
      option.split('=', 1) for option in _OPTIONS.value)
  text = compile_alone(operation.function, arguments, device, options)
  estimated = tpu_cycles.seconds(tpu_cycles.executed(text, chip))
  published = operation.published(chip)
  return {'name': operation.name, 'estimated_ms': 1e3 * estimated,
          'published_ms': 1e3 * published, 'ratio': estimated / published}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  chip, devices = tpu_aot.open_topology(_TOPOLOGY.value)
  jax.config.update('jax_optimization_level', _LEVEL.value)
  rows = []
  print(f'{"":48} {"estimate, ms":>13} {"published, ms":>14} {"ratio":>6}')
  for operation in operations():
    rows.append(row := compare(operation, chip, devices[0]))
    print(f'{row["name"]:48} {row["estimated_ms"]:13.3f} {row["published_ms"]:14.3f} '
          f'{row["ratio"]:6.2f}', flush=True)
  print(json.dumps({'jax': jax.__version__, 'topology': _TOPOLOGY.value,
                    'optimization_level': _LEVEL.value, 'xla': _OPTIONS.value,
                    'operations': rows}))


if __name__ == '__main__':
  command_line.run(main, [])
