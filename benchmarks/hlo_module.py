"""Walks the HLO text of a compiled function: which instructions are executed, and how often."""

from collections.abc import Iterator
import re

from benchmarks import hlo_text
from benchmarks.hlo_text import Instruction

_CALLED = re.compile(
    r'(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ENTRY = re.compile(r'^ENTRY %?([\w.-]+)', re.MULTILINE)
_TARGET = re.compile(r'custom_call_target="([^"]*)"')

# Opcodes that launch nothing.
FREE = frozenset((
    'after-all', 'bitcast', 'call', 'conditional', 'constant', 'get-tuple-element',
    'opt-barrier', 'parameter', 'partition-id', 'replica-id', 'tuple', 'while'))


class Module:
  """The instructions of a text, by computation and name."""

  def __init__(self, text: str):
    entry = _ENTRY.search(text)
    assert entry is not None, 'the text has no entry'
    self.entry = entry.group(1)
    self.computations: dict[str, dict[str, Instruction]] = {}
    for instruction in hlo_text.instructions(text):
      self.computations.setdefault(instruction.computation, {})[instruction.name] = instruction

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """Those that the text names."""
    known = self.computations[instruction.computation]
    return [known[name] for name in instruction.operands if name in known]

  def inside(self, instruction: Instruction) -> Iterator[Instruction]:
    """The instructions of the computations that a fusion calls, not those that these call."""
    for name in called(instruction):
      yield from self.computations.get(name, {}).values()

  def executed(self, rare: float) -> Iterator[tuple[Instruction, float]]:
    """Instructions outside of fusions, and how often each is executed.

    Args:
      rare: share of the executions in which the larger branch of a condition runs.
    """
    waiting = [(self.entry, 1.0)]
    while waiting:
      computation, times = waiting.pop()
      for instruction in self.computations.get(computation, {}).values():
        yield instruction, times
        waiting += [(name, times * factor) for name, factor in self._entered(instruction, rare)]

  def _entered(self, instruction: Instruction, rare: float) -> Iterator[tuple[str, float]]:
    """Computations that an instruction executes, and how often."""
    if instruction.opcode == 'conditional':
      names = [name.strip(' %') for group in _BRANCHES.findall(instruction.rest)
               for name in group.split(',')] or called(instruction)
      # The larger branch is the rare one; the other may copy what it returns.
      largest = max(names, key=lambda name: len(self.computations.get(name, {})))
      yield from ((name, rare if name == largest else 1 - rare) for name in names)
    elif instruction.opcode == 'while':
      turns = _TURNS.search(instruction.rest)
      yield from ((name, int(turns.group(1)) if turns else 1) for name in called(instruction))
    elif instruction.opcode in ('call', 'async-start'):
      yield from ((name, 1) for name in called(instruction))


def called(instruction: Instruction) -> list[str]:
  """Names of the computations that an instruction calls, but for the branches of a condition."""
  return _CALLED.findall(instruction.rest)


def target(instruction: Instruction) -> str:
  """What a custom call calls, or ''."""
  found = _TARGET.search(instruction.rest)
  return found.group(1) if found else ''
