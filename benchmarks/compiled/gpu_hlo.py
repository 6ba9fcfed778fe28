"""Kernels of a function compiled for an NVIDIA card, read from its HLO text.

`kernels` lists what is launched, each with its operations and the bytes of its operands and
results, as far as the text tells: a kernel that reads a part of an operand counts as if it
read all of it, and what stays in the cache counts as if it came from memory.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

from benchmarks import hlo_module
from benchmarks.hlo_module import Module
from benchmarks.hlo_text import Instruction

_WINDOW = re.compile(r'window=\{size=([\dx]+)')
_LABELS = re.compile(r'dim_labels=(\w+)_(\w+)->(\w+)')
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[")(\d+)')
_LARGE = 1 << 20  # bytes of what counts as a map
Array = tuple[str, tuple[int, ...]]  # HLO dtype and shape


@dataclasses.dataclass(frozen=True)
class Kernel:
  """One launch.

  Attributes:
    opcode: e.g. 'fusion'.
    target: of a custom call, or ''.
    op_name: where in the JAX function it comes from, or ''.
    times: launches in a step on average.
    dtype: HLO dtype of the operands of its dots and convolutions; of its result without any.
    flops: of its dots and convolutions.
    bytes: of operands and results.
    moved: bytes of the maps (from 1 MiB) that it transposes or copies.
    own_convolution: whether it is or contains a convolution outside of cuDNN.
    results: dtypes and shapes.
    operands: likewise.
  """

  opcode: str
  target: str
  op_name: str
  times: float
  dtype: str
  flops: int
  bytes: int
  moved: int
  own_convolution: bool
  results: tuple[Array, ...] = ()
  operands: tuple[Array, ...] = ()

  @property
  def is_cudnn(self) -> bool:
    """Whether it is a convolution of cuDNN."""
    return self.target.startswith('__cudnn$conv')

  @property
  def is_convolution(self) -> bool:
    """Whether it is a convolution of cuDNN, or has one that XLA compiled itself."""
    return self.is_cudnn or self.own_convolution


def _products(module: Module, instruction: Instruction) -> Iterator[Instruction]:
  """The dots and convolutions of a kernel."""
  if instruction.opcode in ('dot', 'convolution', 'custom-call'):
    yield instruction
  elif instruction.opcode == 'fusion':
    for inner in module.inside(instruction):
      yield from _products(module, inner)


def _moved(module: Module, instruction: Instruction) -> int:
  """Bytes of the maps that a kernel transposes or copies."""
  if instruction.opcode in ('transpose', 'copy'):
    return instruction.bytes if instruction.bytes >= _LARGE else 0
  if instruction.opcode != 'fusion':
    return 0
  return sum(_moved(module, inner) for inner in module.inside(instruction))


def _flops(product: Instruction, operands: list[Instruction]) -> int:
  """Operations of a convolution or dot; those with zeros of padding count."""
  if labels := _LABELS.search(product.rest):
    kind = hlo_module.target(product)
    kernel = product if 'BackwardFilter' in kind else operands[1]
    gradient_or_result = (operands[1] if 'BackwardFilter' in kind else
                          operands[0] if 'BackwardInput' in kind else product)
    window = _WINDOW.search(product.rest)
    taps = math.prod(int(n) for n in window.group(1).split('x')) if window else 1
    return (2 * math.prod(gradient_or_result.arrays[0][1]) * taps
            * kernel.arrays[0][1][labels.group(2).index('i')])
  if (contracted := _CONTRACTED.search(product.rest)) and operands:
    depth = operands[0].arrays[0][1][int(contracted.group(1))]
    return 2 * math.prod(product.arrays[0][1]) * depth
  return 0


def kernels(text: str, rare: float = 1.0) -> list[Kernel]:
  """The launches of a step.

  Args:
    text: HLO of the compiled step.
    rare: share of the steps in which the larger branch of a condition runs: 1 / interval of R1.

  Returns:
    One entry for each kernel of the step.
  """
  module, found = Module(text), []
  for instruction, times in module.executed(rare):
    if instruction.opcode in hlo_module.FREE or instruction.opcode.endswith('-done'):
      continue
    flops, dtype = 0, instruction.arrays[0][0] if instruction.arrays else ''
    products = list(_products(module, instruction))
    for product in products:
      factors = module.operands(product)
      if more := _flops(product, factors):
        flops, dtype = flops + more, factors[0].arrays[0][0]
    operands = module.operands(instruction)
    size = instruction.bytes + sum(operand.bytes for operand in operands)
    found.append(Kernel(
        instruction.opcode, hlo_module.target(instruction), instruction.op_name, times, dtype,
        flops, size, _moved(module, instruction),
        any(product.opcode == 'convolution' for product in products), instruction.arrays,
        tuple(array for operand in operands for array in operand.arrays)))
  return found


def seconds(launched: list[Kernel], peaks: dict[str, float], bandwidth: float) -> float:
  """Lower bound on the seconds of a step: every kernel at its peak or its bandwidth, no gaps.

  Args:
    launched: see `kernels`.
    peaks: FLOP/s by HLO dtype.
    bandwidth: bytes/s.
  """
  return sum(k.times * max(k.flops / peaks.get(k.dtype, peaks['f32']), k.bytes / bandwidth)
             for k in launched)
