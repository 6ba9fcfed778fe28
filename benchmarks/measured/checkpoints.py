"""Measures the cost of checkpoints: the same steps with and without saving, in turn.

  python -m benchmarks.measured.checkpoints

trains the model of configs/tiny.py for a few hundred steps, with a
save at every tick of 30 steps. The last line is JSON: milliseconds that `save` blocks the loop,
their share of the time between two saves, and by how much a tick with a save took longer than one
without. Lower is better.
"""

import json
import platform
import statistics
import tempfile
import time

from absl import app, flags, logging
import jax

from configs import tiny
from input_pipeline import from_config
from mat_jax.runtime import sharding
from mat_jax.training import start
from mat_jax.training.step import aot, settings

_TICKS = flags.DEFINE_integer('ticks', 5, 'Ticks with, and as many without, a save.')
_STEPS = flags.DEFINE_integer('steps', 30, 'Steps of a tick.')


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  config = start.with_model_of(tiny.get_config(), '')
  networks = start.make_networks(config)
  options, mesh = settings.training_from_config(config), sharding.make_mesh()
  state = aot.compiled_create(networks, options, mesh)(jax.random.key(0))
  step = aot.compiled_step(networks, options, mesh)
  portraits, masks = from_config.open_training(config)
  stream = from_config.training_stream(config, portraits, masks, 0, 0, 1)

  def tick():
    nonlocal state
    begun = time.perf_counter()
    for _ in range(_STEPS.value):
      state, losses = step(state, None, sharding.to_global(next(stream), mesh))
      losses.block_until_ready()
    return time.perf_counter() - begun

  tick()  # compiles
  with_save, without, waits = [], [], []
  with tempfile.TemporaryDirectory() as workdir:
    checkpoints = start.open_checkpoints(config, workdir, len(portraits))
    for _ in range(_TICKS.value):
      without.append(tick())
      begun = time.perf_counter()
      checkpoints.save(state)
      waits.append(time.perf_counter() - begun)
      with_save.append(tick())
      checkpoints.wait()
    checkpoints.close()
  wait, plain = statistics.median(waits), statistics.median(without)
  print(json.dumps({
      'jax': jax.__version__, 'device': jax.devices()[0].device_kind, 'cpu': platform.machine(),
      'steps': _STEPS.value, 'seconds_per_tick': round(plain, 3),
      'save_milliseconds': round(1000 * wait, 1), 'save_share': round(wait / plain, 5),
      'longer_share': round((wait + statistics.median(with_save)) / plain - 1, 5)}))


if __name__ == '__main__':
  app.run(main)
