"""Where the bytes of a compiled step go: its kernels by what they belong to.

A kernel has the name of one operation of the JAX function, which tells phase, pass, network and
layer: 'jit(step)/Gmain/transpose(jvp(Generator.synthesize))/synthesis/dec/block_256/conv0/mul'.
A fused kernel has that of its last operation, so a few are counted with a neighbour.
"""

from collections.abc import Iterable
import re
from typing import Any

from benchmarks.compiled.gpu_hlo import Kernel

_PHASES = ('Gmain', 'Dmain', 'Dreg')
# Parts of the networks, by the modules that their names are in.
_PARTS = {'first_stage': 'first stage', 'enc': 'encoder', 'dec': 'decoder', 'to_style': 'decoder',
          'to_square': 'decoder', 'mapping': 'mapping', 'dis': 'discriminator',
          'dis_stage1': 'discriminator of stage one'}
_WRAPPER = re.compile(r'^(?:jvp|transpose|vmap|rematted_computation|checkpoint|jit|pjit)\b')


def phase(kernel: Kernel) -> str:
  """'Gmain', 'Dmain', 'Dreg', or '' outside of them: the EMA update, or a network alone."""
  return next((name for name in _PHASES if f'/{name}/' in kernel.op_name), '')


def direction(kernel: Kernel) -> str:
  """'backward' for what JAX has transposed, else 'forward'."""
  # 'transpose()' is the adjoint of a convolution, which the forward pass has too.
  return 'backward' if re.search(r'transpose\((?!\))', kernel.op_name) else 'forward'


def part(kernel: Kernel) -> str:
  """The part of the networks or of the step, such as 'decoder', or 'other'."""
  names = _names(kernel.op_name)
  found = next((_PARTS[name] for name in names if name in _PARTS), '')
  if found == 'first stage':
    return 'transformer of stage one' if any(
        name.startswith('tran_') for name in names) else 'convolutions of stage one'
  return found or 'other'


def layer(kernel: Kernel) -> str:
  """The path of modules and the operation, without phase and direction."""
  return '/'.join(_names(kernel.op_name))


def kind(kernel: Kernel) -> str:
  """'convolution', 'matmul' or 'elementwise', which reductions are too."""
  if kernel.is_convolution:
    return 'convolution'
  return 'matmul' if kernel.flops else 'elementwise'


def budget(kernels: Iterable[Kernel]) -> list[dict[str, Any]]:
  """Bytes by phase, part and direction, the largest first.

  Returns:
    Rows with `phase`, `part`, `direction`, `gb` in a step on average, of them `gb_elementwise`,
    and `kernels`, launches.
  """
  rows: dict[tuple[str, ...], dict[str, Any]] = {}
  for kernel in kernels:
    key = phase(kernel), part(kernel), direction(kernel)
    row = rows.setdefault(key, dict(zip(('phase', 'part', 'direction'), key, strict=True))
                          | {'gb': 0.0, 'gb_elementwise': 0.0, 'kernels': 0.0})
    moved = kernel.times * kernel.bytes / 1e9
    row['gb'] += moved
    row['gb_elementwise'] += moved if kind(kernel) == 'elementwise' else 0.0
    row['kernels'] += kernel.times
  return sorted(rows.values(), key=lambda row: -row['gb'])


def largest(kernels: Iterable[Kernel], count: int) -> list[dict[str, Any]]:
  """The kernels that move most, those of one layer, direction and shape taken together.

  Args:
    kernels: of a step.
    count: of the rows.

  Returns:
    Rows with `gb` in a step on average, `launches`, `kind`, `phase`, `direction`, `layer`, and
    `results` and `operands`, dtypes and shapes.
  """
  rows: dict[tuple[Any, ...], dict[str, Any]] = {}
  for kernel in kernels:
    row = {'phase': phase(kernel), 'direction': direction(kernel), 'layer': layer(kernel),
           'kind': kind(kernel), 'results': _shapes(kernel.results),
           'operands': _shapes(kernel.operands)}
    found = rows.setdefault(tuple(row.values()), row | {'gb': 0.0, 'launches': 0.0})
    found['gb'] += kernel.times * kernel.bytes / 1e9
    found['launches'] += kernel.times
  return sorted(rows.values(), key=lambda row: -row['gb'])[:count]


def lines(rows: Iterable[dict[str, Any]]) -> list[str]:
  """The rows of `largest` for a person."""
  return [f"{row['gb']:7.3f} GB in {row['launches']:5.1f}  {row['phase']:5} {row['direction']:8} "
          f"{row['kind']:11} {row['layer']}\n{'':21}{row['operands']} -> {row['results']}"
          for row in rows]


def _names(op_name: str) -> list[str]:
  """The parts of a path that are neither functions nor transformations of JAX nor a phase."""
  # What a remat computes again has its whole path twice.
  inside = re.split(rf"(?:^|/)(?:{'|'.join(_PHASES)})/", re.sub(r'^jit\([^/]*\)/', '', op_name))[-1]
  return [name for name in inside.split('/') if name and not _WRAPPER.match(name)]


def _shapes(arrays: Iterable[tuple[str, tuple[int, ...]]]) -> str:
  """Such as 'bf16[8,256,256,128] f32[128]'; workspaces of nothing are left out."""
  return ' '.join(f"{dtype}[{','.join(map(str, shape))}]" for dtype, shape in arrays
                  if 0 not in shape)
