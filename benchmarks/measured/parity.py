"""Compares the results on these devices with those of the published implementation.

  python -m benchmarks.measured.parity
  python -m benchmarks.measured.parity --programs=const_psi05,discriminator --precisions=bfloat16

Generator and discriminator at 256 px, and the gradients of the phases of a training step,
against values that the published implementation computed in float32 on a CPU: with full float32
precision of matmuls and convolutions ('float32'), with JAX's default ('default': TF32 on NVIDIA
cards since Ampere, bfloat16 on a TPU), and with a network in bfloat16 or float16. A network's error is
max|a - b| / max|b|; a gradient's that of its norm and that of its dot product with known values,
both over the norm. 'allowed' is what the tests allow in float32. Each row is printed when it is
computed; the last line is JSON.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import json
import statistics
import time
from typing import Any

from absl import app, flags, logging
import jax
import jax.numpy as jnp

from benchmarks.reference import published, published_phases
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.nn.discriminator import Discriminator
from mat_jax.nn.generator import Generator
from mat_jax.ops.implementation import for_platform
from mat_jax.training.step.objectives import Networks

Row = dict[str, Any]

PRECISIONS = ('float32', 'default', 'bfloat16', 'float16')
PROGRAMS = (*published.CASES, *published_phases.PHASES)

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_PROGRAMS = flags.DEFINE_list('programs', list(PROGRAMS), 'Which of them.', flag_values=_FLAGS)
_PRECISIONS = flags.DEFINE_list('precisions', list(PRECISIONS), 'Which of them.',
    flag_values=_FLAGS)
_IMPLEMENTATIONS = flags.DEFINE_enum('implementations', 'auto', ['auto', 'cpu', 'gpu', 'tpu'],
    'See configs/base.py.', flag_values=_FLAGS)
_COMPILE_ONLY = flags.DEFINE_bool('compile_only', False,
    'Fills the compilation cache (JAX_COMPILATION_CACHE_DIR) and compares nothing.',
    flag_values=_FLAGS)


@dataclasses.dataclass(frozen=True)
class Precision:
  """The dtype of the networks, and within which context they are traced."""

  dtype: Any
  products: Callable[[], contextlib.AbstractContextManager[Any]]


def precision(name: str) -> Precision:
  """One of `PRECISIONS`."""
  dtype = jnp.dtype(name) if name in ('bfloat16', 'float16') else jnp.float32
  products = 'highest' if name == 'float32' else None
  return Precision(dtype, lambda: jax.default_matmul_precision(products))


def compare_networks(case: published.Case, results: tuple[Any, ...]) -> Row:
  """The errors of a network's results."""
  return case.errors(results) | {'allowed': case.tolerance}


def compare_gradients(phase: published_phases.Phase, results: tuple[Any, ...]) -> Row:
  """The errors of a phase, over all its gradients.

  'norm' and 'dot' are the largest; the tests allow ten times as much for the second. 'beyond'
  counts the norms that are further off than the tests allow.
  """
  errors = phase.errors(results)
  return {
      'norm': max(errors.norms.values()),
      'norm_of': max(errors.norms, key=errors.norms.__getitem__),
      'norm_median': statistics.median(errors.norms.values()),
      'beyond': sum(error > phase.bound(name) for name, error in errors.norms.items()),
      'gradients': len(errors.norms), 'dot': max(errors.dots.values()),
      'dot_median': statistics.median(errors.dots.values()),
      'zero_in_theory': errors.vanishing, 'loss': max(errors.losses.values()),
      'allowed': phase.tolerance}


def measure(program: str, name: str, platform: str | None) -> Row:
  """One row of the table.

  Args:
    program: one of `PROGRAMS`.
    name: one of `PRECISIONS`.
    platform: of the implementations; None for that of the devices.

  Returns:
    Errors, and the seconds to trace and compile; with --compile_only these alone.
  """
  chosen = precision(name)
  implementation = for_platform(platform=platform)
  generator = Generator(dtype=chosen.dtype, implementation=implementation)
  discriminator = Discriminator(dtype=chosen.dtype, implementation=implementation)
  compare: Callable[[tuple[Any, ...]], Row]
  function: Callable[..., Any]
  if program in published.CASES:
    case = published.CASES[program]
    compare = functools.partial(compare_networks, case)
    function, arguments = case.function(generator, discriminator), case.arguments()
  else:
    phase = published_phases.PHASES[program]
    compare = functools.partial(compare_gradients, phase)
    networks = Networks(generator, discriminator, published_phases.FEATURE_NETWORK)
    function, arguments = phase.function(networks), phase.arguments()
  begun = time.perf_counter()
  with chosen.products():
    compiled = jax.jit(function).lower(*arguments).compile()
  row = {'program': program, 'precision': name,
         'compile_seconds': round(time.perf_counter() - begun, 1)}
  if _COMPILE_ONLY.value:
    return row
  return row | compare(jax.device_get(compiled(*arguments)))


def _check(chosen: list[str], known: tuple[str, ...], flag: str) -> None:
  unknown = sorted(set(chosen) - set(known))
  if unknown:
    raise UserError(f'--{flag} has {unknown[0]!r}; choose among {", ".join(known)}')


def _text(value: Any) -> str:
  return f'{value:.2g}' if isinstance(value, float) and abs(value) < 0.1 else str(value)


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  _check(_PROGRAMS.value, PROGRAMS, 'programs')
  _check(_PRECISIONS.value, PRECISIONS, 'precisions')
  platform = None if _IMPLEMENTATIONS.value == 'auto' else _IMPLEMENTATIONS.value
  kind = jax.devices()[0].device_kind
  print(f'{kind}, implementations for {platform or jax.default_backend()}', flush=True)
  rows = []
  for program in _PROGRAMS.value:
    for name in _PRECISIONS.value:
      rows.append(measure(program, name, platform))
      print(' '.join(f'{key} {_text(value)}' for key, value in rows[-1].items()), flush=True)
  print(json.dumps({'jax': jax.__version__, 'device': kind,
                    'implementations': platform or jax.default_backend(), 'rows': rows}))


if __name__ == '__main__':
  app.run(main)
