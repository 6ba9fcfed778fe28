"""Compiles the training step for NVIDIA cards that need not be there, and reports its needs.

  python -m benchmarks.compiled.gpu_aot --target=h100
  python -m benchmarks.compiled.gpu_aot --target=a100 --remat --batch=32 --devices=1 --devices=4
  python -m benchmarks.compiled.gpu_aot --target=t4 --batch=8 --largest=20
  python -m benchmarks.compiled.gpu_aot --target=h100 --batch=8 --programs=generator

Searches the largest batch of a card, and compiles that on every number of cards in
`--devices`. `--programs` compiles a network with its gradient alone instead, in a minute, to try
a change. Nothing runs: memory and operations are the compiler's, seconds are bounds that no
card reaches. The compiler leaves out the workspaces of cuDNN, so memory is a lower bound, of
which `--reserve` keeps a share free.

The last line is JSON: bytes per card, the largest batches, convolutions in and outside of
cuDNN, operations, bytes moved, in all and by part of the networks, the kernels that move most,
collectives by kind, seconds to compile. Needs the extra
`gpu-aot`; a full step takes about three minutes of one core to compile.
"""

import dataclasses
import itertools
import json
import os
import time
from typing import Any

from absl import app, flags
import jax

from benchmarks import abstract_step, analytic, hlo_text
from benchmarks.abstract_step import Case
from benchmarks.compiled import batch_search, gpu_hlo, gpu_target, kernel_report
from benchmarks.compiled.gpu_hlo import Kernel
from benchmarks.compiled.gpu_target import Target
from mat_jax.errors import UserError, exit_on_user_error

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_TARGET = flags.DEFINE_enum('target', None, gpu_target.NAMES, 'The card.', required=True,
    flag_values=_FLAGS)
_RESOLUTION = flags.DEFINE_integer('resolution', 256, 'Side of the images.', flag_values=_FLAGS)
_DTYPE = flags.DEFINE_enum('dtype', None, ('float32', 'bfloat16', 'float16'),
                           'Of activations; by default bfloat16, on a T4 float16.',
    flag_values=_FLAGS)
_REMAT = flags.DEFINE_bool('remat', False, 'Recomputes activations in the backward pass.',
    flag_values=_FLAGS)
_BATCH = flags.DEFINE_integer('batch', None, 'Images per card instead of a search.',
    flag_values=_FLAGS)
_FIRST = flags.DEFINE_multi_integer('first', [4, 8], 'The first two batches of the search.',
                                    lower_bound=1, flag_values=_FLAGS)
_DEVICES = flags.DEFINE_multi_integer('devices', [1], 'Numbers of cards to compile for.',
                                      lower_bound=1, flag_values=_FLAGS)
_RESERVE = flags.DEFINE_float('reserve', 0.1, 'Share of the memory left for workspaces.',
    flag_values=_FLAGS)
_WIDTH = flags.DEFINE_float('width', 1.0, 'Channel multiplier; 1 is the published network.',
    flag_values=_FLAGS)
_PROGRAMS = flags.DEFINE_multi_enum(
    'programs', ['step'], ['step', 'generator', 'discriminator'], 'The training step, or a network '
    'with its gradient, which needs --batch; give it several times for several.',
    flag_values=_FLAGS)
_LARGEST = flags.DEFINE_integer('largest', 0, 'Kernels to list, those that move most first.',
    lower_bound=0, flag_values=_FLAGS)
_HLO = flags.DEFINE_string('hlo', '', 'Folder for the HLO text of the compiled functions.',
    flag_values=_FLAGS)

_CARDS = (16e9, 40e9, 80e9)  # bytes of the cards that batches are estimated for
_SMALL = 0.1  # GB of a part that is not printed


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step, or a network with its gradient.

  Attributes:
    name: 'step', 'generator' or 'discriminator'.
    made: what it was made of.
    text: its HLO.
    peak: bytes per card, without cuDNN's workspaces.
    seconds: to compile, of processor time and of the clock.
  """

  name: str
  made: abstract_step.AbstractStep
  text: str
  peak: int
  seconds: tuple[float, float]


def lowerable(made: abstract_step.AbstractStep, name: str) -> abstract_step.Program:
  """The program of a name in `--programs`."""
  return {'step': made.step, 'generator': made.generator_gradient,
          'discriminator': made.discriminator_gradient}[name]()


def compile_program(target: Target, case: Case, devices: int, name: str = 'step') -> Program:
  """The full step of training of a case, R1 and all, or a network, for cards of a target."""
  made = abstract_step.make(case, gpu_target.mesh(target, devices))
  function, arguments = lowerable(made, name)
  begun = _clocks()
  compiled = function.lower(*arguments).compile()
  ended = _clocks()
  seconds = ended[0] - begun[0], ended[1] - begun[1]
  memory, text = compiled.memory_analysis(), compiled.as_text()
  assert memory is not None and text is not None
  peak = (memory.argument_size_in_bytes + memory.output_size_in_bytes
          - memory.alias_size_in_bytes + memory.temp_size_in_bytes)
  print(f'{name}, batch {case.batch_size} on {devices}: {peak / 2**30:.2f} GiB per card, compiled '
        f'in {seconds[0]:.0f} s of processor time', flush=True)
  if _HLO.value:
    os.makedirs(_HLO.value, exist_ok=True)
    with open(os.path.join(_HLO.value, f'{name}-{case.batch_size}-{devices}.txt'), 'w',
              encoding='utf-8') as file:
      file.write(text)
  return Program(name, made, text, peak, seconds)


def _clocks() -> tuple[float, float]:
  """Processor time, that of ptxas in other processes included, and the clock."""
  return sum(os.times()[:4]), time.perf_counter()


def chosen_dtype(target: Target, name: str | None) -> str:
  """`--dtype`, or the best that the card has; UserError for bfloat16 on a T4."""
  if 'bf16' in target.peaks:
    return name or 'bfloat16'
  if name == 'bfloat16':
    raise UserError(f'a {target.name.upper()} has no tensor cores for bfloat16; take '
                    '--dtype=float16')
  return name or 'float16'


def analytic_flops(case: Case, name: str = 'step') -> tuple[float, float]:
  """Operations that a program needs on average, and those of one R1; see `benchmarks.analytic`."""
  made = abstract_step.make(dataclasses.replace(case, remat=False, microbatch=None))
  if name != 'step':
    function, arguments = lowerable(made, name)
    return analytic.flops(function, *arguments), 0.0
  function, arguments = made.main_step()
  regularizer, its_arguments = made.regularizer()
  once = analytic.flops(regularizer, *its_arguments)
  return analytic.flops(function, *arguments) + once / made.settings.r1_interval, once


def report_convolutions(kernels: list[Kernel]) -> dict[str, int]:
  """Convolutions of cuDNN by kind, those outside of it, and float32 ones outside of R1."""
  found = {'outside_cudnn': sum(k.is_convolution and not k.is_cudnn for k in kernels)}
  for kernel in kernels:
    if kernel.is_cudnn:
      kind = kernel.target.removeprefix('__cudnn$conv')
      found[kind] = found.get(kind, 0) + 1
  found['cudnn'] = sum(kernel.is_cudnn for kernel in kernels)
  found['float32_outside_r1'] = sum(
      k.is_convolution and k.dtype == 'f32' and 'Dreg' not in k.op_name for k in kernels)
  return found


def report_program(target: Target, case: Case, program: Program,
                   devices: int) -> dict[str, Any]:
  """The figures of a compiled program, per card."""
  images = case.batch_size // devices
  settings = program.made.settings
  kernels = gpu_hlo.kernels(program.text, 1 / settings.r1_interval)
  needed, of_r1 = analytic_flops(dataclasses.replace(case, batch_size=images), program.name)
  rare = of_r1 / settings.r1_interval
  activations = {'bfloat16': 'bf16', 'float16': 'f16', 'float32': 'f32'}[case.dtype]
  floor = (needed - rare) / target.peaks[activations] + rare / target.peaks['f32']
  to_kimg = 1000 / images
  return {
      'program': program.name, 'devices': devices, 'batch_per_card': images,
      'bytes_per_card': program.peak,
      'compile_cpu_s': round(program.seconds[0]), 'compile_s': round(program.seconds[1]),
      'convolutions': report_convolutions(kernels),
      'tflop': {'analytic': needed / 1e12,
                'compiled': sum(k.times * k.flops for k in kernels) / 1e12},
      'gb_moved': sum(k.times * k.bytes for k in kernels) / 1e9,
      'gb_transposed_or_copied': sum(k.times * k.moved for k in kernels) / 1e9,
      'kernels': round(sum(k.times for k in kernels)),
      's_per_kimg': {
          'products_at_peak': floor * to_kimg,
          'kernels_at_limits': gpu_hlo.seconds(
              kernels, target.peaks, target.bandwidth) * to_kimg},
      'collectives': hlo_text.collectives(program.text),
      'gradient_bytes': program.made.gradient_bytes(),
      'budget': kernel_report.budget(kernels),
      'largest': kernel_report.largest(kernels, _LARGEST.value)}


def batches_of_cards(known: dict[int, int], reserve: float) -> dict[str, int]:
  """Estimates for cards of other sizes, from the same line."""
  return {f'{size / 1e9:.0f} GB': max(0, batch_search.estimate(known, int(size * (1 - reserve))))
          for size in _CARDS}


def search(target: Target, case: Case, budget: int) -> tuple[int, dict[int, int], Program]:
  """The largest batch of one card, batch -> bytes of all that were tried, and its compiled step."""
  programs: dict[int, Program] = {}

  def peak(batch: int) -> int:
    programs[batch] = compile_program(target, dataclasses.replace(case, batch_size=batch), 1)
    return programs[batch].peak

  batch, known = batch_search.largest(peak, budget, _FIRST.value)
  if not batch:
    raise UserError(f'no batch fits {budget / 2**30:.1f} GiB of a {target.name.upper()}; take '
                    '--remat or a smaller --resolution')
  return batch, known, programs[batch]


def rounded(value: Any) -> Any:
  """Numbers with four digits, as the bounds are no better than that."""
  if isinstance(value, dict):
    return {key: rounded(item) for key, item in value.items()}
  if isinstance(value, list):
    return [rounded(item) for item in value]
  return float(f'{value:.4g}') if isinstance(value, float) else value


def describe(report: dict[str, Any], target: Target) -> str:
  """The lines that a person reads."""
  convolutions, flop = report['convolutions'], report['tflop']
  bounds = report['s_per_kimg']
  collectives = ', '.join(
      f"{kind} {found['bytes'] / 1e6:.1f} MB in {found['count']}"
      for kind, found in report['collectives'].items()) or 'none'
  parts = '\n'.join(
      f"{'':14}{row['gb']:6.2f} GB, {row['gb_elementwise']:6.2f} of them elementwise: "
      f"{' '.join(filter(None, (row['phase'], row['part'], row['direction'])))}"
      for row in report['budget'] if row['gb'] >= _SMALL)
  listed = ''.join('\n' + line for line in kernel_report.lines(report['largest']))
  return f'''{report['program']}, {report['devices']} x {target.name.upper()}, \
{report['batch_per_card']} images each:
  memory      {report['bytes_per_card'] / 2**30:.2f} of {target.memory / 2**30:.2f} GiB, a lower \
bound: workspaces of cuDNN come on top
  cuDNN       {convolutions['cudnn']} convolutions, {convolutions['outside_cudnn']} outside, \
{convolutions['float32_outside_r1']} in float32 outside of R1
  operations  {flop['compiled']:.2f} TFLOP, the analytic count is {flop['analytic']:.2f}
  traffic     {report['gb_moved']:.1f} GB, of it transposed or copied maps \
{report['gb_transposed_or_copied']:.1f}
{parts}
  bounds      {bounds['products_at_peak']:.2f} s/kimg with all convolutions at NVIDIA's peak, \
{bounds['kernels_at_limits']:.2f} with each kernel at its own limit; neither is a measurement
  collectives {collectives}; one copy of the gradients {report['gradient_bytes'] / 1e6:.1f} MB\
{listed}'''


def run() -> dict[str, Any]:
  """Compiles what the flags ask for, and reports it."""
  target = gpu_target.read(_TARGET.value)
  dtype = chosen_dtype(target, _DTYPE.value)
  case = Case(_RESOLUTION.value, _BATCH.value or 0, dtype, 'gpu', _REMAT.value,
              width=_WIDTH.value)
  report = {'jax': jax.__version__, 'target': target.name, 'dtype': dtype,
            'resolution': case.resolution, 'remat': case.remat, 'width': case.width}
  batch, searched = _BATCH.value, None
  if batch is None:
    if _PROGRAMS.value != ['step']:
      raise UserError('only a step has a largest batch; give --batch with --programs')
    if len(set(_FIRST.value)) < 2:
      raise UserError('--first names one batch; give two, such as --first=4 --first=8')
    budget = int(target.memory * (1 - _RESERVE.value))
    batch, known, searched = search(target, case, budget)
    report |= {'largest_batch': batch, 'reserve': _RESERVE.value,
               'bytes_by_batch': known, 'estimated_batches': batches_of_cards(
                   known, _RESERVE.value)}
  programs: list[dict[str, Any]] = []
  for devices, name in itertools.product(_DEVICES.value, _PROGRAMS.value):
    whole = dataclasses.replace(case, batch_size=batch * devices)
    found = (searched if devices == 1 and searched
             else compile_program(target, whole, devices, name))
    programs.append(rounded(report_program(target, whole, found, devices)))
    print(describe(programs[-1], target), flush=True)
  return {**report, 'programs': programs}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  # The CUDA plugin would look for a card, and fail.
  jax.config.update('jax_platforms', 'cpu')
  print(json.dumps(run()))


if __name__ == '__main__':
  app.run(main)
