"""Compiles networks and training step for TPUs that need not be there, and reports their costs.

  python -m benchmarks.compiled.tpu_aot --topology=v5e:2x2
  python -m benchmarks.compiled.tpu_aot --programs=step --resolution=512 --batch_size=4 --remat

libtpu (`pip install 'mat-jax[tpu]'`) compiles without a TPU. Without --resolution it is 256 px
with 8 and 512 px with 4 images per chip. Printed for every compiled function, per chip:

- memory: arguments, results that are not donated arguments, and temporary arrays;
- operations against those that the mathematics needs (`benchmarks.analytic`), and bytes that
  instructions read and write, by XLA's count;
- the roofline: seconds and seconds per thousand images that these take at the chip's peaks, a
  lower bound. Of a step it is the step without R1 plus 1/16 of R1, as often as R1 is computed;
- XLA's own estimate, by part of the networks, forward + backward pass, on chips of a known clock
  (`benchmarks.compiled.tpu_cycles`). It depends on XLA's effort (--optimization_level);
- collectives by kind, with their bytes against one copy of the gradients;
- convolutions of float32 operands outside of R1, and seconds to compile.

The last line is JSON, with the goals of the training step and whether they are met.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import json
import math
import os
import re
import time
from typing import Any

from absl import flags
import jax
from jax.experimental import topologies

from benchmarks import abstract_step, analytic, hlo_text
from benchmarks.compiled import tpu_cycles
from benchmarks.peaks import TPUS, Peak
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line, sharding

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', f'{", ".join(TPUS)}, and the chips.',
    flag_values=_FLAGS)
_PROGRAMS = flags.DEFINE_multi_enum(
    'programs', ['generator', 'discriminator', 'step'],
    ['generator', 'generator_gradient', 'discriminator', 'discriminator_gradient', 'step'],
    'What to compile; give it several times for several.', flag_values=_FLAGS)
_RESOLUTION = flags.DEFINE_integer('resolution', None, 'Side of the images.', flag_values=_FLAGS)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Images per chip, with --resolution.',
    flag_values=_FLAGS)
_WIDTH = flags.DEFINE_float('width', 1.0, 'Channel multiplier; 1 is the published size.',
    flag_values=_FLAGS)
_DTYPE = flags.DEFINE_enum('dtype', 'bfloat16', ['bfloat16', 'float32'], 'Of activations.',
    flag_values=_FLAGS)
_IMPLEMENTATIONS = flags.DEFINE_enum('implementations', 'tpu', ['cpu', 'gpu', 'tpu'],
                                  'Those of the heavy operations.', flag_values=_FLAGS)
_REMAT = flags.DEFINE_bool('remat', False, 'Recomputes activations in the backward pass.',
    flag_values=_FLAGS)
_MICROBATCH = flags.DEFINE_integer('microbatch', None, 'Images per chip at a time.',
    flag_values=_FLAGS)
_LEVEL = flags.DEFINE_string('optimization_level', 'O1', "XLA's effort: O0 to O3, UNKNOWN for "
                             'its default, which takes many times longer.', flag_values=_FLAGS)
_DEAREST = flags.DEFINE_integer('dearest', 10, 'Instructions to list, those that take longest.',
    flag_values=_FLAGS)
_HLO = flags.DEFINE_string('hlo', '', 'Folder for the HLO text of the compiled functions.',
    flag_values=_FLAGS)

# libtpu's names for some slice of each kind, and for a chip whose cores are one device.
_LIBTPU = {'v4': ('v4-8', 'megacore'), 'v5e': ('v5litepod-4', 'default'),
           'v5p': ('v5p-8', 'default'), 'v6e': ('v6e-4', 'default')}
_PARTS = 30  # to list
_CASES = ((256, 8), (512, 4))
_FLOPS_GOAL, _REDUCE_GOAL = 1.15, 1.1
_SECONDS_GOALS = {('v5e', 256): 30.0}  # per thousand images, by XLA's estimate


@dataclasses.dataclass(frozen=True)
class Cost:
  """Operations and bytes of a function on one chip, and operations of the mathematics."""

  flops: float
  accessed: float
  analytic: float

  def __add__(self, other: 'Cost') -> 'Cost':
    return Cost(self.flops + other.flops, self.accessed + other.accessed,
                self.analytic + other.analytic)

  def __mul__(self, factor: float) -> 'Cost':
    return Cost(self.flops * factor, self.accessed * factor, self.analytic * factor)


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled function: its cost, bytes of memory, HLO text, and seconds to compile."""

  cost: Cost
  memory: dict[str, int]
  text: str
  seconds: float


def open_topology(name: str) -> tuple[Peak, Sequence[jax.Device]]:
  """The chip and the devices of a topology such as 'v5e:2x2' or 'v5p:2x2x1'.

  Raises:
    UserError: libtpu is missing, or knows no such topology.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UserError("libtpu, which compiles for TPUs, is not installed; "
                    "pip install 'mat-jax[tpu]'")
  kind, _, shape = name.partition(':')
  if kind not in TPUS or not re.fullmatch(r'\d+(x\d+){1,2}', shape):
    raise UserError(f'--topology is {name!r}; give one of {", ".join(TPUS)} and the shape of the '
                    'slice, as in v5e:2x2 or v5p:2x2x1')
  accelerator, config = _LIBTPU[kind]
  # Without a TPU, libtpu would ask the metadata server of a cloud which one it runs on.
  os.environ['TPU_SKIP_MDS_QUERY'] = '1'
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', accelerator)
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  # Nothing runs: other processes may compile at the same time.
  os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
  jax.config.update('jax_platforms', 'cpu')
  sides = [int(side) for side in shape.split('x')]
  host = (*(min(side, 2) for side in sides[:2]), 1)
  try:
    found = topologies.get_topology_desc(
        platform='tpu', topology_name=name, chip_config_name=config,
        chips_per_host_bounds=host, num_slices=1)
  except Exception as error:  # libtpu's own kinds of errors
    raise UserError(f'libtpu has no topology {name!r}: {str(error).splitlines()[0]}') from error
  return TPUS[kind], found.devices


def compile_program(program: abstract_step.Program, needed: float, name: str) -> Compiled:
  """Compiles a function.

  Args:
    program: function and shapes with shardings.
    needed: operations that the mathematics needs, of one chip.
    name: of the file for its text.
  """
  function, arguments = program
  begun = time.perf_counter()
  compiled = function.lower(*arguments).compile()
  seconds = time.perf_counter() - begun
  costs, memory, text = (compiled.cost_analysis(), compiled.memory_analysis(),
                         compiled.as_text())
  assert costs is not None and text is not None
  if _HLO.value:
    os.makedirs(_HLO.value, exist_ok=True)
    with open(os.path.join(_HLO.value, f'{name}.txt'), 'w') as file:
      file.write(text)
  sizes = {part: getattr(memory, f'{part}_size_in_bytes')
           for part in ('argument', 'output', 'alias', 'temp')}
  sizes['total'] = sizes['argument'] + sizes['output'] - sizes['alias'] + sizes['temp']
  return Compiled(Cost(costs['flops'], costs['bytes accessed'], needed), sizes, text, seconds)


def summarize(cost: Cost, compiled: Compiled, chip: Peak, images: int,
              rare: float = 1.0) -> dict[str, Any]:
  """The figures of a program that takes so many images on each chip.

  Args:
    cost: of the program.
    compiled: the program.
    chip: that it is for.
    images: on each chip.
    rare: share of the executions in which the branches of its conditions run.
  """
  seconds = chip.roofline(cost.flops, cost.accessed)
  return {'memory': compiled.memory, 'tflop': cost.flops / 1e12,
          'analytic_tflop': cost.analytic / 1e12, 'flops_ratio': cost.flops / cost.analytic,
          'gigabytes_accessed': cost.accessed / 1e9, 'roofline_ms': 1e3 * seconds,
          'compute_ms': 1e3 * cost.flops / chip.flops, 's_per_kimg': 1e3 * seconds / images,
          'collectives': hlo_text.collectives(compiled.text),
          'float32_convolutions': float32_convolutions(compiled.text),
          'estimate': estimate(compiled, chip, images, rare, _DEAREST.value),
          'compile_s': compiled.seconds}


def estimate(compiled: Compiled, chip: Peak, images: int, rare: float,
             dearest: int) -> dict[str, Any] | None:
  """XLA's own estimate, with so many of the dearest instructions; see `summarize`.

  None for a chip whose clock is not known.
  """
  if math.isnan(chip.clock):
    return None
  executed = tpu_cycles.executed(compiled.text, chip, rare)
  return tpu_cycles.summarize(executed, chip, images) | {
      'dearest': tpu_cycles.dearest(executed, dearest)}


def float32_convolutions(text: str) -> list[str]:
  """Origins of the convolutions of float32 operands outside of R1."""
  return sorted(product.op_name or '(unknown)' for product in hlo_text.products(text)
                if product.is_convolution and 'f32' in product.dtypes
                and 'Dreg' not in product.op_name)


def compile_step(made: abstract_step.AbstractStep, exact: abstract_step.AbstractStep, chip: Peak,
                 images: int, name: str) -> dict[str, Any]:
  """Compiles the step, and R1 alone to weigh its cost; see `summarize`.

  Args:
    made: the step.
    exact: its mathematics: for one chip, without remat, with portable implementations.
    chip: that it is for.
    images: on each chip.
    name: of the step.
  """
  def needed(program: abstract_step.Program) -> float:
    function, arguments = program
    return analytic.flops(function, *arguments)

  main, regularizer = needed(exact.main_step()), needed(exact.regularizer())
  step = compile_program(made.step(), main + regularizer, name)
  r1 = compile_program(made.regularizer(), regularizer, f'{name}-r1')
  # XLA counts the branch of the `lax.cond` that has R1.
  cost = step.cost + r1.cost * (1 / made.settings.r1_interval - 1)
  found = summarize(cost, step, chip, images, 1 / made.settings.r1_interval)
  reduced = found['collectives'].get('all-reduce', {'bytes': 0})['bytes']
  return found | {
      'r1': {'tflop': r1.cost.flops / 1e12, 'gigabytes_accessed': r1.cost.accessed / 1e9},
      'all_reduce_ratio': reduced / made.gradient_bytes()}


def judge(found: dict[str, Any], chip: Peak, seconds_goal: float | None) -> dict[str, Any]:
  """The goals of a training step: {goal: {'value', 'at_most', 'met'}}."""
  values = {
      'memory': (found['memory']['total'], chip.memory),
      'flops_ratio': (found['flops_ratio'], _FLOPS_GOAL),
      'all_reduce_ratio': (found['all_reduce_ratio'], _REDUCE_GOAL),
      'other_collectives': (sum(entry['count'] for kind, entry in found['collectives'].items()
                                if kind != 'all-reduce'), 0),
      'float32_convolutions': (len(found['float32_convolutions']), 0)}
  if seconds_goal and found['estimate']:
    values['estimated_s_per_kimg'] = (found['estimate']['s_per_kimg'], seconds_goal)
  return {name: {'value': value, 'at_most': limit, 'met': value <= limit}
          for name, (value, limit) in values.items()}


def show(title: str, found: dict[str, Any], chip: Peak) -> None:
  """Prints the figures of a program."""
  memory = found['memory']
  print(title)
  print(f'  memory      {memory["total"] / 1e9:.2f} GB of {chip.memory / 1e9:.0f} (arguments '
        f'{memory["argument"] / 1e9:.2f}, temporary {memory["temp"] / 1e9:.2f})')
  print(f'  operations  {found["tflop"]:.2f} TFLOP, {found["flops_ratio"]:.3f} times the '
        f'{found["analytic_tflop"]:.2f} needed')
  print(f'  accessed    {found["gigabytes_accessed"]:.1f} GB')
  print(f'  roofline    {found["roofline_ms"]:.1f} ms ({found["compute_ms"]:.1f} of compute), '
        f'{found["s_per_kimg"]:.2f} s/kimg per chip')
  if found['estimate']:
    for line in [*tpu_cycles.lines(found['estimate'], _PARTS), *found['estimate']['dearest']]:
      print(f'  {line}')
  for kind, entry in found['collectives'].items():
    print(f'  {kind:10}  {entry["bytes"] / 1e6:.2f} MB in {entry["count"]}')
  print(f'  float32     {len(found["float32_convolutions"])} convolutions outside of R1')
  for origin in found['float32_convolutions']:
    print(f'              {origin}')
  print(f'  compiled in {found["compile_s"]:.0f} s')
  for goal, entry in found.get('goals', {}).items():
    print(f'  {"goal" if entry["met"] else "MISSED"}: {goal} {entry["value"]:.4g}, at most '
          f'{entry["at_most"]:.4g}', flush=True)


def run(resolution: int, images: int, chip: Peak, devices: Sequence[jax.Device],
        seconds_goal: float | None) -> dict[str, Any]:
  """Compiles the functions of one resolution and shows their figures.

  Args:
    resolution: side of the images.
    images: on each chip.
    chip: that it is for.
    devices: the chips.
    seconds_goal: most seconds per thousand images on each chip, if there is a goal.

  Returns:
    Name of the function -> figures.
  """
  microbatch = _MICROBATCH.value and _MICROBATCH.value * len(devices)
  case = abstract_step.Case(
      resolution, images * len(devices), _DTYPE.value, _IMPLEMENTATIONS.value, _REMAT.value,
      microbatch, _WIDTH.value)
  made = abstract_step.make(case, sharding.make_mesh(devices))
  exact = abstract_step.make(abstract_step.Case(resolution, images, 'float32', 'gpu',
                                                width=_WIDTH.value))
  everything = {}
  for program in _PROGRAMS.value:
    name = f'{program}-{resolution}'
    if program == 'step':
      found = compile_step(made, exact, chip, images, name)
      found['goals'] = judge(found, chip, seconds_goal)
    else:
      function, arguments = getattr(exact, program)()
      compiled = compile_program(
          getattr(made, program)(), analytic.flops(function, *arguments), name)
      found = summarize(compiled.cost, compiled, chip, images)
    show(f'{program}, {resolution} px, {images} images per chip', found, chip)
    everything[program] = found
  return everything


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  chip, devices = open_topology(_TOPOLOGY.value)
  jax.config.update('jax_optimization_level', _LEVEL.value)
  cases = [(_RESOLUTION.value, _BATCH_SIZE.value)] if _RESOLUTION.value else _CASES
  kind = _TOPOLOGY.value.partition(':')[0]
  found = {resolution: run(resolution, images, chip, devices,
                           _SECONDS_GOALS.get((kind, resolution)))
           for resolution, images in cases}
  missed = [f'{goal} at {resolution}' for resolution, programs in found.items()
            for goal, entry in programs.get('step', {}).get('goals', {}).items()
            if not entry['met']]
  print(json.dumps({'jax': jax.__version__, 'topology': _TOPOLOGY.value, 'dtype': _DTYPE.value,
                    'remat': _REMAT.value, 'width': _WIDTH.value,
                    'optimization_level': _LEVEL.value, 'missed': missed, 'programs': found}))


if __name__ == '__main__':
  command_line.run(main, [])
