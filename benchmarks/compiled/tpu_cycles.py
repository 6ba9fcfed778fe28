"""What a function compiled for a TPU takes by the estimates that XLA writes into it.

XLA for TPUs chooses the tiling of every fusion by a model of its cost, and leaves the result in the
HLO text, `estimated_cycles`. The model knows what a roofline does not: channels padded to 128 lanes,
how much of the matrix units a convolution fills, overlapping windows, layouts. It is an estimate
and no clock: close to the published peak for large products, and several times too slow for what
only reads and writes (`benchmarks.compiled.tpu_estimate` compares). So beside each figure is a
second one, in which instructions without a product take their bytes at the memory's bandwidth.

`executed` lists what the entry computation runs, what it calls included, as often as it is run.
What has no estimate is taken to cost:

- a Pallas kernel: its own estimate of operations and bytes, at the chip's peaks;
- an asynchronous copy or slice between memories: nothing, as it runs beside the others;
- all else, all-reduces among it: its operands and results at the bandwidth of the chip's memory.
"""

from collections.abc import Iterable
import dataclasses
import re
from typing import Any

from benchmarks import hlo_module
from benchmarks.hlo_text import Instruction
from benchmarks.peaks import Peak

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KERNEL_COST = re.compile(r'"cost_estimate":\{([^}]*)\}')
_ASYNCHRONOUS = ('copy-start', 'slice-start', 'async-start')
_PHASES = ('Gmain', 'Dmain', 'Dreg')
# Scopes that parts begin with: networks, the generator's parts, and named scopes of the step.
_PARTS = ('first_stage', 'enc', 'dec', 'to_style', 'to_square', 'mapping', 'dis', 'dis_stage1',
          'vgg', 'augment', 'adam', 'ema')
_WRAPPED = re.compile(r'^(?:transpose|jvp|vmap|remat|checkpoint)\((.*)\)$')


@dataclasses.dataclass(frozen=True)
class Executed:
  """One instruction that is executed.

  Attributes:
    name: in the HLO text.
    opcode: e.g. 'fusion', or the target of a custom call.
    op_name: where in the JAX function it comes from, or ''.
    times: executions in a step on average.
    cycles: XLA's estimate of one execution, or None.
    seconds: of all executions.
    bytes: of operands and results of one execution, without padding.
    shapes: of the result, e.g. 'bf16[8,256,256,180]'.
    has_product: whether it is or contains a convolution or dot, or is a Pallas kernel.
  """

  name: str
  opcode: str
  op_name: str
  times: float
  cycles: int | None
  seconds: float
  bytes: int
  shapes: str
  has_product: bool

  @property
  def is_backward(self) -> bool:
    """Whether it is named after an operation of a backward pass."""
    return 'transpose(' in self.op_name

  def at_bandwidth(self, chip: Peak) -> float:
    """Seconds if it had no estimate: of a product the same, else of its bytes at the bandwidth."""
    if self.has_product or not self.seconds:
      return self.seconds
    return min(self.seconds, self.times * self.bytes / chip.bandwidth)


def part(op_name: str) -> str:
  """The part of the step that an operation comes from, by the names of its scopes.

  Args:
    op_name: such as 'jit(step)/Gmain/transpose(jvp(Generator))/synthesis/dec/block_256/conv0/mul'.

  Returns:
    Phase, network, and the module in it: here 'Gmain dec/block_256'; 'other' for what belongs to
    none.
  """
  phase = next((name for name in _PHASES if name in op_name), '')
  names = [_unwrapped(name) for name in op_name.split('/')]
  start = next((i for i, name in enumerate(names) if name in _PARTS), None)
  if start is None:
    return f'{phase} other'.strip()
  # The last name is that of the operation, those with a dot are methods.
  module = [name for name in names[start:-1] if '.' not in name][:2] or names[start:start + 1]
  return f'{phase} {"/".join(module)}'.strip()


def _unwrapped(name: str) -> str:
  """A scope without the transforms around it: 'transpose(jvp(vgg))' -> 'vgg'."""
  while found := _WRAPPED.match(name):
    name = found.group(1)
  return name


def executed(text: str, chip: Peak, rare: float = 1.0) -> list[Executed]:
  """What a compiled function executes.

  Args:
    text: its HLO.
    chip: that it is for, with a clock.
    rare: share of the executions in which the branches of its conditions run: 1 / interval of R1.

  Returns:
    One entry for each instruction that takes time.
  """
  module, found = hlo_module.Module(text), []
  for instruction, times in module.executed(rare):
    if instruction.opcode in hlo_module.FREE or instruction.opcode.endswith('-done'):
      continue
    size = instruction.bytes + sum(operand.bytes for operand in module.operands(instruction))
    estimate = _CYCLES.search(instruction.rest)
    cycles = int(estimate.group(1)) if estimate else None
    once = cycles / chip.clock if cycles is not None else _assumed(instruction, size, chip)
    found.append(Executed(
        instruction.name, hlo_module.target(instruction) or instruction.opcode,
        instruction.op_name, times, cycles, times * once, size,
        ', '.join(f'{dtype}[{",".join(map(str, shape))}]' for dtype, shape in instruction.arrays),
        _has_product(module, instruction)))
  return found


def _has_product(module: hlo_module.Module, instruction: Instruction) -> bool:
  if instruction.opcode in ('convolution', 'dot'):
    return True
  if instruction.opcode == 'custom-call':
    return _KERNEL_COST.search(instruction.rest) is not None
  return instruction.opcode == 'fusion' and any(
      _has_product(module, inner) for inner in module.inside(instruction))


def _assumed(instruction: Instruction, size: int, chip: Peak) -> float:
  """Seconds of an instruction without an estimate; see the module."""
  if instruction.opcode in _ASYNCHRONOUS:
    return 0.0
  if kernel := _KERNEL_COST.search(instruction.rest):
    cost = {name: int(value) for name, value in re.findall(r'"(\w+)":"?(\d+)', kernel.group(1))}
    return chip.roofline(cost.get('flops', 0), cost.get('bytes_accessed', size))
  return size / chip.bandwidth


def seconds(entries: Iterable[Executed]) -> float:
  """Of all of them, one after the other."""
  return sum(entry.seconds for entry in entries)


def summarize(entries: list[Executed], chip: Peak, images: int) -> dict[str, Any]:
  """The figures of a function that takes so many images.

  Returns:
    Milliseconds and seconds per thousand images; those of products; those with all else at the
    memory's bandwidth; milliseconds by part, forward and backward; and by opcode what has no
    estimate, with its bytes and what it is taken to cost.
  """
  total, bounded = seconds(entries), sum(entry.at_bandwidth(chip) for entry in entries)
  parts: dict[str, dict[str, float]] = {}
  unknown: dict[str, dict[str, float]] = {}
  for entry in entries:
    times = parts.setdefault(part(entry.op_name), {'forward_ms': 0.0, 'backward_ms': 0.0})
    times['backward_ms' if entry.is_backward else 'forward_ms'] += 1e3 * entry.seconds
    if entry.cycles is None:
      row = unknown.setdefault(entry.opcode, {'count': 0, 'bytes': 0, 'taken_ms': 0.0})
      row['count'] += entry.times
      row['bytes'] += entry.times * entry.bytes
      row['taken_ms'] += 1e3 * entry.seconds
  return {'ms': 1e3 * total, 's_per_kimg': 1e3 * total / images,
          'products_ms': 1e3 * seconds(entry for entry in entries if entry.has_product),
          'rest_at_bandwidth_ms': 1e3 * bounded,
          'rest_at_bandwidth_s_per_kimg': 1e3 * bounded / images,
          'parts': dict(sorted(parts.items(), key=lambda item: -sum(item[1].values()))),
          'without_estimate': unknown}


def dearest(entries: Iterable[Executed], count: int) -> list[str]:
  """Lines on the instructions that take longest."""
  return [f'{1e3 * entry.seconds:8.3f} ms {entry.times:g}x {entry.opcode} {entry.shapes} '
          f'{entry.op_name}' for entry in sorted(entries, key=lambda e: -e.seconds)[:count]]


def lines(found: dict[str, Any], parts: int) -> list[str]:
  """What `summarize` has found, for people, with so many parts."""
  result = [f'estimate    {found["ms"]:.1f} ms ({found["products_ms"]:.1f} of products), '
            f'{found["s_per_kimg"]:.2f} s/kimg per chip',
            f'            {found["rest_at_bandwidth_ms"]:.1f} ms with all but products at the '
            f'bandwidth, {found["rest_at_bandwidth_s_per_kimg"]:.2f} s/kimg']
  for name, times in list(found['parts'].items())[:parts]:
    result.append(f'            {times["forward_ms"]:7.2f} + {times["backward_ms"]:7.2f} ms {name}')
  for name, row in found['without_estimate'].items():
    result.append(f'            {row["taken_ms"]:7.2f} ms assumed of {row["count"]:g} {name}, '
                  f'{row["bytes"] / 1e6:.1f} MB')
  return result
