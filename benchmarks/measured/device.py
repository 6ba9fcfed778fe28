"""Times training and inference on the devices that JAX finds.

  python -m benchmarks.measured.device
  python -m benchmarks.measured.device --resolution=512 --dtype=bfloat16 --remat --batch_sizes=8,16

The networks of configs/base.py train on synthetic images, all devices of the process sharing the
batch, which is doubled until the memory or --seconds do not suffice. Steps with and without R1
are timed separately, each until it is done, after a warm-up step; seconds per step are their
medians weighted as in training, 1 to 15. MFU is the operations that the mathematics needs
(`benchmarks.analytic`) over what the devices could do in that time. Memory is the peak of the
fullest device, or of the process if the device has no statistics. Then the generator alone
completes images. The last line is JSON; higher images/s are better.

Most of the time is spent on compiling, which needs a core or two and hardly the device. So several
cases can be compiled concurrently into JAX's compilation cache, and timed in turn by processes of
their own:

  export JAX_COMPILATION_CACHE_DIR=programs XLA_PYTHON_CLIENT_PREALLOCATE=false
  for size in 8 16 32; do
    python -m benchmarks.measured.device --batch_sizes=$size --generate= --compile_only &
  done; wait
  for size in 8 16 32; do
    python -m benchmarks.measured.device --batch_sizes=$size --generate= --turn=device.lock &
  done; wait
"""

from collections.abc import Callable, Iterable, Iterator
import fcntl
import functools
import json
import os
import resource
import statistics
import time
from typing import Any

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import abstract_step, analytic, peaks
from benchmarks.measured import device_kernels
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.nn import model_config
from mat_jax.runtime import sharding
from mat_jax.training.step import aot

Tree = Any
Row = dict[str, Any]

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_RESOLUTION = flags.DEFINE_integer('resolution', 256, 'Side of the images.', flag_values=_FLAGS)
_WIDTH = flags.DEFINE_float('width', 1.0, 'Channel multiplier.', flag_values=_FLAGS)
_DTYPE = flags.DEFINE_string('dtype', 'auto', 'bfloat16, float16, float32, or auto; see configs/base.py.',
    flag_values=_FLAGS)
_IMPLEMENTATIONS = flags.DEFINE_string('implementations', 'auto', 'See configs/base.py.',
    flag_values=_FLAGS)
_REMAT = flags.DEFINE_bool('remat', False, 'Recomputes activations in the backward pass.',
    flag_values=_FLAGS)
_BATCH_SIZES = flags.DEFINE_list(
    'batch_sizes', None,
    'Global batches to train with, empty for none; by default 4 per device, doubled.',
    flag_values=_FLAGS)
_GENERATE = flags.DEFINE_list('generate', ['1', '8', '32'], 'Batches to complete; empty for none.',
    flag_values=_FLAGS)
_STEPS = flags.DEFINE_integer('steps', 10, 'Most steps of each kind to time.', flag_values=_FLAGS)
_SECONDS = flags.DEFINE_float('seconds', 600.0, 'After so many, no further batch is begun.',
    flag_values=_FLAGS)
_TFLOP = flags.DEFINE_float('tflop_per_image', None,
    'Operations of a step for each image, as another run printed them; by default they are '
    'counted, which takes some tens of seconds.', flag_values=_FLAGS)
_COMPILE_ONLY = flags.DEFINE_bool('compile_only', False,
    'Fills the compilation cache (JAX_COMPILATION_CACHE_DIR) and times nothing.',
    flag_values=_FLAGS)
_TURN = flags.DEFINE_string('turn', None,
    'A file that is locked from the first use of the devices to the end of the process, after '
    'others that wait for it.', flag_values=_FLAGS)
_KERNELS = flags.DEFINE_string('kernels', None,
    'File for the most expensive kernels of a step without R1 at the last batch, as JSON.',
    flag_values=_FLAGS)


# Building the functions of a case traces the networks.
_make = functools.lru_cache(maxsize=2)(abstract_step.make)


def doubled(smallest: int) -> Iterator[int]:
  """The batch sizes of a sweep without an end."""
  while True:
    yield smallest
    smallest *= 2


def sweep(sizes: Iterable[int], measure: Callable[[int], Row], seconds: float) -> list[Row]:
  """Measures one batch size after the other until the memory or the time is over.

  Args:
    sizes: ascending batch sizes.
    measure: batch size -> figures; raises what JAX raises when the memory does not suffice.
    seconds: a batch is not begun if, taking twice as long as its predecessor, it would end later.

  Returns:
    The figures; the last one is {'batch_size', 'ended'} if a size was not measured.
  """
  begun, last = time.perf_counter(), 0.0
  rows: list[Row] = []
  for size in sizes:
    before = time.perf_counter()
    if rows and before - begun + 2 * last > seconds:
      return [*rows, {'batch_size': size, 'ended': 'out of time'}]
    try:
      row: Row = {'batch_size': size} | measure(size)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      if not isinstance(error, MemoryError) and 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      row = {'batch_size': size, 'ended': 'out of memory'}
    print(' '.join(f'{name} {value}' for name, value in row.items()), flush=True)
    rows.append(row)
    if 'ended' in row:
      break
    last = time.perf_counter() - before
  return rows


def timed(function: Callable[[], Tree], count: int, seconds: float) -> list[float]:
  """Seconds of up to `count` calls, at least one, each waited for; ends after `seconds`."""
  found: list[float] = []
  while not found or (len(found) < count and sum(found) < seconds):
    begun = time.perf_counter()
    jax.block_until_ready(function())
    found.append(time.perf_counter() - begun)
  return found


def compiled(program: abstract_step.Program) -> tuple[jax.stages.Compiled, float]:
  """The executable and the seconds that it took; MemoryError if it cannot fit a CPU's memory."""
  begun = time.perf_counter()
  function, arguments = program
  made = function.lower(*arguments).compile()
  if jax.default_backend() == 'cpu':
    # A device says so itself; here the system would end the process.
    sizes = made.memory_analysis()
    assert sizes is not None
    needed = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes
    if needed > 0.9 * os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'):
      raise MemoryError
  return made, time.perf_counter() - begun


def peak_memory() -> int:
  """Bytes used at most so far, of the fullest device; of the process if devices do not say."""
  used = [(device.memory_stats() or {}).get('peak_bytes_in_use', 0)
          for device in jax.local_devices()]
  if all(used):
    return max(used)
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def filled(shapes: Tree) -> Tree:
  """Arrays of small normal samples for shapes, with their shardings."""
  rng = np.random.default_rng(0)

  def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
    values = 0.1 * rng.standard_normal(shape.shape, np.float32)
    return jax.device_put(values.astype(shape.dtype), shape.sharding)

  return jax.tree.map(draw, shapes)


@functools.cache
def take_turn(path: str | None) -> None:
  """Waits until no other process has locked the file; it stays locked until this one ends.

  Args:
    path: the file, which is made; None not to wait.

  Raises:
    UserError: it cannot be made.
  """
  if path is None:
    return
  try:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
  except OSError as error:
    raise UserError(f'--turn is {path}, which cannot be made: {error.strerror}') from error
  fcntl.flock(descriptor, fcntl.LOCK_EX)


def train(case: abstract_step.Case, create: Callable[[jax.Array], Tree]) -> Row:
  """Times the training step.

  Args:
    case: what to train.
    create: key -> a fresh state on the devices.

  Returns:
    Seconds and memory; with --compile_only the seconds to compile.
  """
  mesh = sharding.make_mesh()
  made = _make(case, mesh)
  step, compile_seconds = compiled(made.step())
  if _COMPILE_ONLY.value:
    return {'compile_seconds': round(compile_seconds, 1)}
  take_turn(_TURN.value)
  state = create(jax.random.key(0))
  features, batch = filled(made.features), filled(made.batch)
  batch['mask'] = (batch['mask'] > 0).astype(jnp.float32)

  def run(number: int) -> Tree:
    nonlocal state
    where = jax.device_put(jnp.int32(number), sharding.replicated(mesh))
    state, losses = step(state.replace(step=where), features, batch)
    return state, losses

  interval, budget = made.settings.r1_interval, _SECONDS.value / 4
  (first,) = timed(lambda: run(0), 1, budget)
  plain = statistics.median(timed(lambda: run(1), _STEPS.value, budget))
  with_r1 = statistics.median(timed(lambda: run(0), _STEPS.value, budget))
  if _KERNELS.value:
    text = step.as_text()
    assert text is not None
    device_kernels.write(_KERNELS.value, lambda: run(1), text)
  seconds = plain + (with_r1 - plain) / interval
  return {'images_per_second': round(case.batch_size / seconds, 3),
          'seconds_per_kimg': round(1000 * seconds / case.batch_size, 2),
          'step_seconds': round(seconds, 4), 'plain_step_seconds': round(plain, 4),
          'r1_step_seconds': round(with_r1, 4), 'first_step_seconds': round(first, 2),
          'compile_seconds': round(compile_seconds, 1),
          'peak_memory_gb': round(peak_memory() / 1e9, 2)}


def generate(case: abstract_step.Case) -> Row:
  """Times inference on one device."""
  made = abstract_step.make(case)
  program = made.generator()
  run, compile_seconds = compiled(program)
  if _COMPILE_ONLY.value:
    return {'compile_seconds': round(compile_seconds, 1)}
  take_turn(_TURN.value)
  arguments = filled(program[1])
  timed(lambda: run(*arguments), 1, 0)
  seconds = statistics.median(timed(lambda: run(*arguments), _STEPS.value, _SECONDS.value / 8))
  return {'images_per_second': round(case.batch_size / seconds, 3),
          'seconds': round(seconds, 4), 'compile_seconds': round(compile_seconds, 1),
          'peak_memory_gb': round(peak_memory() / 1e9, 2)}


def flops_per_image(case: abstract_step.Case) -> float:
  """Operations of a step for each image, R1 with its share."""
  size = model_config.GROUP_SIZE
  made = abstract_step.make(abstract_step.Case(
      case.resolution, size, 'float32', 'gpu', width=case.width))
  (main_step, arguments), (regularizer, own) = made.main_step(), made.regularizer()
  total = analytic.flops(main_step, *arguments)
  return (total + analytic.flops(regularizer, *own) / made.settings.r1_interval) / size


def with_mfu(row: Row, flops: float, rate: float | None) -> Row:
  """The row with its MFU: None where the devices' peak, all of them together, is unknown."""
  if 'images_per_second' not in row:
    return row
  share = rate and round(row['images_per_second'] * flops / rate, 4)
  return row | {'mfu': share, 'tflops': round(row['images_per_second'] * flops / 1e12, 3)}


def _sizes(values: list[str], flag: str) -> list[int]:
  try:
    sizes = sorted(int(value) for value in values if value)
  except ValueError as error:
    raise UserError(f'--{flag} is {",".join(values)}; give numbers joined by commas') from error
  if sizes and sizes[0] < 1:
    raise UserError(f'--{flag} has {sizes[0]}; give numbers from 1')
  return sizes


def _case(batch_size: int) -> abstract_step.Case:
  return abstract_step.Case(
      _RESOLUTION.value, batch_size, str(model_config.compute_dtype(_DTYPE.value)),
      _IMPLEMENTATIONS.value, _REMAT.value, width=_WIDTH.value)


def _train_all(sizes: Iterable[int], made: abstract_step.AbstractStep) -> list[Row]:
  """Figures of training with each of the batch sizes; one of them is made already."""
  create, _ = compiled((aot.compiled_create(made.networks, made.settings, made.mesh),
                        (jax.random.key(0),)))
  return sweep(sizes, lambda n: train(_case(n), create), _SECONDS.value)


def _flops(smallest: int) -> float:
  """Operations of a step for each image: those given, or counted if something is timed."""
  if _TFLOP.value is not None:
    return 1e12 * _TFLOP.value
  return 0.0 if _COMPILE_ONLY.value else flops_per_image(_case(smallest))


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  devices, dtype = jax.devices(), str(model_config.compute_dtype(_DTYPE.value))
  given = _BATCH_SIZES.value
  sizes = None if given is None else _sizes(given, 'batch_sizes')
  completed = _sizes(_GENERATE.value, 'generate')
  smallest = min(sizes) if sizes else model_config.GROUP_SIZE * len(devices)
  made = None if sizes == [] else _make(_case(smallest), sharding.make_mesh())
  flops = _flops(smallest)
  peak = peaks.peak_flops(devices[0].device_kind, dtype)
  print(f'{len(devices)} x {devices[0].device_kind}, {_RESOLUTION.value} px, {dtype}; '
        f'{flops / 1e12:.3f} TFLOP per image', flush=True)
  trained = _train_all(sizes or doubled(smallest), made) if made else []
  trained = [with_mfu(row, flops, peak and peak * len(devices)) for row in trained]
  print('the generator alone, on one device:', flush=True)
  generated = sweep(completed, lambda n: generate(_case(n)), _SECONDS.value)
  measured = [row for row in trained if 'images_per_second' in row]
  print(json.dumps({
      'jax': jax.__version__, 'device': devices[0].device_kind, 'devices': len(devices),
      'resolution': _RESOLUTION.value, 'width': _WIDTH.value, 'dtype': dtype,
      'remat': _REMAT.value, 'tflop_per_image': round(flops / 1e12, 4),
      'best': max(measured, key=lambda row: row['images_per_second'], default=None),
      'training': trained, 'generator': generated}))


if __name__ == '__main__':
  app.run(main)
