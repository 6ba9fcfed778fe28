"""Parses the HLO text of a compiled function (`compiled.as_text()`)."""

from collections.abc import Iterator
import dataclasses
import math
import re

COLLECTIVES = ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter',
               'collective-broadcast', 'ragged-all-to-all')

_INSTRUCTION = re.compile(
    r'^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$')
_ARRAY = re.compile(r'(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OPERAND = re.compile(r'%([\w.-]+)')
_LAYOUT = re.compile(r'(?<=\])\{[^{}]*\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of HLO.

  Attributes:
    name: of the result.
    computation: name of the computation that it belongs to.
    opcode: e.g. 'fusion'.
    arrays: dtype and shape of the result, or of its parts.
    operands: names of the operands.
    op_name: where in the JAX function it comes from, or ''.
    rest: the text after the opcode.
  """

  name: str
  computation: str
  opcode: str
  arrays: tuple[tuple[str, tuple[int, ...]], ...]
  operands: tuple[str, ...]
  op_name: str
  rest: str

  @property
  def bytes(self) -> int:
    """Of the result."""
    return sum(array_bytes(*array) for array in self.arrays)


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
  """Bytes of an array of an HLO dtype such as 'bf16', without padding."""
  width = re.search(r'\d+', dtype)
  assert width is not None or dtype == 'pred', dtype
  bits = int(width.group()) if width is not None else 8
  return math.ceil(bits * math.prod(shape) / 8)


def instructions(text: str) -> Iterator[Instruction]:
  """All instructions of a module, those inside fusions included."""
  computation = ''
  for line in text.splitlines():
    if line.endswith('{') and ' = ' not in line.split('->')[0]:
      computation = line.removeprefix('ENTRY ').lstrip('%').split(' ')[0].split('(')[0]
      continue
    if not (found := _INSTRUCTION.match(_unmarked(line))):
      continue
    name, shapes, opcode, rest = found.groups()
    op_name = _OP_NAME.search(rest)
    arrays = tuple((dtype, tuple(int(n) for n in sizes.split(',') if n))
                   for dtype, sizes in _ARRAY.findall(shapes))
    yield Instruction(name, computation, opcode, arrays,
                      tuple(_OPERAND.findall(rest.split('), ')[0])),
                      op_name.group(1) if op_name else '', rest)


def _unmarked(line: str) -> str:
  """The line with its result's layouts and `/*index=5*/` comments left out."""
  line = re.sub(r'/\*.*?\*/', '', line)
  head, equals, tail = line.partition(' = ')
  if not equals:
    return line
  # A layout may hold parentheses, as in {3,2,1,0:T(8,128)(2,1)}.
  return head + equals + _LAYOUT.sub('', tail)


def collectives(text: str) -> dict[str, dict[str, int]]:
  """Collectives by kind: their number, and the bytes of their results on each device.

  An asynchronous collective counts where it ends, as what it starts with may hold its
  operands too.
  """
  found: dict[str, dict[str, int]] = {}
  for instruction in instructions(text):
    kind = instruction.opcode.removesuffix('-done')
    if kind not in COLLECTIVES:
      continue
    entry = found.setdefault(kind, {'count': 0, 'bytes': 0})
    entry['count'] += 1
    entry['bytes'] += instruction.bytes
  return found


@dataclasses.dataclass(frozen=True)
class Product:
  """A convolution or dot.

  Attributes:
    opcode: 'convolution', 'dot' or 'custom-call'.
    dtypes: of both operands, where known.
    shape: of the result.
    op_name: where in the JAX function it comes from.
    target: of the custom call, e.g. '__cudnn$convForward', or ''.
  """

  opcode: str
  dtypes: tuple[str, ...]
  shape: tuple[int, ...]
  op_name: str
  target: str

  @property
  def is_convolution(self) -> bool:
    """Whether the JAX function has a convolution there; XLA also turns dots into them.

    One whose origin has been lost counts as one.
    """
    if self.opcode == 'convolution' and not self.op_name:
      return True
    return 'conv_general_dilated' in self.op_name or '$conv' in self.target


def products(text: str) -> list[Product]:
  """Every convolution and dot, those of cuDNN and cuBLAS included."""
  everything = list(instructions(text))
  dtypes = {(i.computation, i.name): i.arrays[0][0] for i in everything if i.arrays}
  found = []
  for instruction in everything:
    target = _TARGET.search(instruction.rest) if instruction.opcode == 'custom-call' else None
    library = target is not None and any(
        name in target.group(1) for name in ('$conv', 'cublas', 'gemm', 'matmul'))
    if not library and instruction.opcode not in ('convolution', 'dot'):
      continue
    operands = [dtypes.get((instruction.computation, name)) for name in instruction.operands[:2]]
    found.append(Product(
        instruction.opcode, tuple(dtype for dtype in operands if dtype), instruction.arrays[0][1],
        instruction.op_name, target.group(1) if target else ''))
  return found
