"""Times compilation, cold and from the compilation cache on disk.

  python -m benchmarks.measured.compile_time

Each function is compiled twice, each time in a new process, with a cache folder of its own that
is empty the first time: the training step of configs/base.py (256 px, R1 and VGG16 included), the
step of configs/tiny.py, the fresh weights of both, and the full generator at batch 1. Nothing is
run. The last line is JSON: for each function, cold and cached, seconds of the wall clock and of
all cores to trace, lower and compile it, and the size of its cache entry. Lower is better.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import ml_collections

from benchmarks import abstract_step
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.inference import completion
from mat_jax.nn import model_config
from mat_jax.runtime import compilation_cache, sharding
from mat_jax.training import start
from mat_jax.training.step import aot, settings

Program = tuple[jax.stages.Wrapped | aot.AotFunction, tuple[Any, ...]]
_PROGRAMS = ('step', 'tiny_step', 'fresh_weights', 'tiny_fresh_weights', 'generator')

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_NAMES = flags.DEFINE_list('programs', list(_PROGRAMS), 'Which of them.', flag_values=_FLAGS)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 2, 'Images of the step of configs/base.py.',
    flag_values=_FLAGS)
_MEASURE = flags.DEFINE_string('measure', None, 'Measures this function here; used internally.',
    flag_values=_FLAGS)
_FOLDER = flags.DEFINE_string('folder', None, 'Its cache folder.', flag_values=_FLAGS)


def _config(name: str) -> ml_collections.ConfigDict:
  config_name = 'tiny' if name.startswith('tiny') else 'base'
  config = importlib.import_module(f'configs.{config_name}').get_config()
  config.model.dtype = 'float32'
  if name == 'step':
    config.train.batch_size = _BATCH_SIZE.value
  return start.with_model_of(config, '')


def make(name: str, config: ml_collections.ConfigDict) -> Program:
  """A jitted function as training or inpainting makes it, and the shapes of its arguments.

  Args:
    name: one of `_PROGRAMS`.
    config: see `configs/base.py`.
  """
  generator = model_config.generator_from_config(config.model, config.implementations)
  networks = aot.Networks(generator, model_config.discriminator_from_config(
      config.model, config.implementations))
  options, mesh = settings.training_from_config(config), sharding.make_mesh()
  create = aot.compiled_create(networks, options, mesh)
  if name.endswith('fresh_weights'):
    return create, (jax.random.key(0),)
  state = jax.eval_shape(create, jax.random.key(0))

  def images(count: int, channels: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *(config.model.resolution,) * 2, channels), jnp.float32)

  if name == 'generator':
    variables = {'params': state.ema_params, 'buffers': state.ema_buffers}
    seeds, psi = jax.ShapeDtypeStruct((1,), jnp.uint32), jax.ShapeDtypeStruct((), jnp.float32)
    return completion.complete, (generator, variables, images(1, 3), images(1, 1), seeds, psi)
  count = config.train.batch_size
  features = abstract_step.vgg_shapes('vgg16') if config.train.pcp_ratio else None
  batch = {'image': images(count, 3), 'mask': images(count, 1)}
  return aot.compiled_step(networks, options, mesh), (state, features, batch)


def measure(program: Program) -> dict[str, float]:
  """Seconds of the wall clock and of all cores to trace, lower and compile a function."""
  function, arguments = program
  begun, begun_cpu = time.perf_counter(), time.process_time()
  if isinstance(function, aot.AotFunction):
    function.compile(*arguments)
  else:
    function.lower(*arguments).compile()
  return {'seconds': round(time.perf_counter() - begun, 1),
          'core_seconds': round(time.process_time() - begun_cpu, 1)}


def _in_new_process(name: str, folder: str) -> dict[str, float]:
  command = [sys.executable, '-m', 'benchmarks.measured.compile_time', f'--measure={name}',
             f'--folder={folder}', f'--batch_size={_BATCH_SIZE.value}']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise UserError(f'{name} did not compile: {(done.stderr.splitlines() or ["?"])[-1]}')
  return json.loads(done.stdout.splitlines()[-1])


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  if _MEASURE.value:
    compilation_cache.enable(_FOLDER.value)
    print(json.dumps(measure(make(_MEASURE.value, _config(_MEASURE.value)))))
    return
  unknown = sorted(set(_NAMES.value) - set(_PROGRAMS))
  if unknown:
    raise UserError(f'--programs has {unknown[0]!r}; choose among {", ".join(_PROGRAMS)}')
  found = {}
  for name in _NAMES.value:
    with tempfile.TemporaryDirectory() as folder:
      cold, cached = (_in_new_process(name, folder) for _ in range(2))
      size = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    found[name] = {'cold': cold, 'cached': cached, 'cache_mb': round(size / 1e6, 1)}
    print(f'{name}: {cold["seconds"]} s, of all cores {cold["core_seconds"]} s; cached '
          f'{cached["seconds"]} and {cached["core_seconds"]} s', flush=True)
  print(json.dumps({'jax': jax.__version__, 'device': jax.devices()[0].device_kind,
                    'cores': len(os.sched_getaffinity(0)), 'programs': found}))


if __name__ == '__main__':
  app.run(main)
