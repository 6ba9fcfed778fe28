"""The kernels that a compiled function spends its time on, measured by JAX's profiler."""

from collections.abc import Callable, Iterator
import dataclasses
import glob
import json
import os
import re
import tempfile
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks import hlo_text

Row = dict[str, Any]

_CALLS = 3
_SHOWN = 20
_GPU_LINES = 'Stream'  # the lines of a GPU that hold what ran on it begin so
_TARGET = re.compile(r'custom_call_target="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Event:
  """One run of a kernel.

  Attributes:
    kernel: its name on the device.
    instruction: that of HLO that it belongs to; the kernel where the profiler does not say.
    seconds: that it took.
  """

  kernel: str
  instruction: str
  seconds: float


def record(function: Callable[[], Any]) -> tuple[list[Event], list[Row]]:
  """Calls a function some times.

  Args:
    function: calls a compiled function.

  Returns:
    What ran on the devices, and the lines of the profile with the number of their events.
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      for _ in range(_CALLS):
        jax.block_until_ready(function())
    (path,) = glob.glob(os.path.join(folder, '**', '*.xplane.pb'), recursive=True)
    planes = list(ProfileData.from_file(path).planes)
    lines = [{'plane': plane.name, 'line': line.name, 'events': len(list(line.events))}
             for plane in planes for line in plane.lines]
    return [event for plane in planes for event in _events(plane)], lines


def _events(plane: Any) -> Iterator[Event]:
  is_gpu = plane.name.startswith('/device:GPU')
  for line in plane.lines:
    if is_gpu and not line.name.startswith(_GPU_LINES):
      continue  # sums of what the streams have
    for event in line.events:
      instruction = dict(event.stats).get('hlo_op')
      if instruction or is_gpu:
        yield Event(event.name, str(instruction or event.name), event.duration_ns / 1e9)


def summary(events: list[Event], text: str, calls: int = _CALLS) -> Row:
  """Summarises the time by kernel, kind and phase.

  Args:
    events: of some calls of one compiled function.
    text: its HLO (`compiled.as_text()`).
    calls: their number.

  Returns:
    For one call: 'kernels', the most expensive ones; 'kinds' and 'phases', sums over all kernels by
    instruction of HLO and by phase of the training step. Milliseconds and shares of the sum.
  """
  known = {_plain(i.name): i for i in hlo_text.instructions(text)}
  total = sum(event.seconds for event in events)
  found: dict[str, dict[tuple[str, ...], list[float]]] = {'kernels': {}, 'kinds': {}, 'phases': {}}
  for event in events:
    instruction = known.get(_plain(event.instruction))
    op_name = instruction.op_name if instruction else ''
    keys = {'kernels': (event.instruction, event.kernel, op_name),
            'kinds': (_kind(event.instruction, instruction),), 'phases': (_phase(op_name),)}
    for table, key in keys.items():
      found[table].setdefault(key, []).append(event.seconds)

  def rows(table: str, names: tuple[str, ...], count: int | None = None) -> list[Row]:
    ordered = sorted(found[table].items(), key=lambda item: -sum(item[1]))
    return [dict(zip(names, key, strict=True)) | {
        'ms': round(1e3 * sum(times) / calls, 4), 'share': round(sum(times) / total, 4),
        'runs': len(times) / calls} for key, times in ordered[:count]]

  return {'ms': round(1e3 * total / calls, 3),
          'kernels': rows('kernels', ('instruction', 'kernel', 'op_name'), _SHOWN),
          'kinds': rows('kinds', ('kind',)), 'phases': rows('phases', ('phase',))}


def _plain(name: str) -> str:
  """A name as kernels have it: 'loop_add_fusion.3' is the kernel loop_add_fusion_3."""
  return re.sub(r'\W', '_', name)


def _kind(name: str, instruction: hlo_text.Instruction | None) -> str:
  """The target of a custom call, else the name without its number."""
  target = instruction and _TARGET.search(instruction.rest)
  return target.group(1) if target else re.sub(r'[._]\d+$', '', name)


def _phase(op_name: str) -> str:
  found = re.search(r'\b(Gmain|Dmain|Dreg)\b', op_name)
  return found.group(1) if found else 'none'


def write(path: str, function: Callable[[], Any], text: str) -> None:
  """Writes the `summary` of a compiled function as JSON.

  Args:
    path: file to write.
    function: calls it.
    text: its HLO.
  """
  events, lines = record(function)
  with open(path, 'w', encoding='utf-8') as file:
    json.dump(summary(events, text) | {'lines': lines}, file, indent=1)
