"""Trains the same small model in several dtypes and compares the curves of its losses.

  python -m benchmarks.measured.precision
  python -m benchmarks.measured.precision --dtypes=float32,float16 --steps=400 --resolution=64

The model of configs/tiny.py learns the sample portraits, each dtype from the same weights, images
and random inputs, with the compact implementations of the heavy operations. Losses are averaged
over windows of steps; the deviation of a curve is the largest of its windows, relative to float32.
The last line is JSON; `tests/training/precision_test.py` allows 0.05.
"""

from collections.abc import Mapping
import json
import time
from typing import Any

from absl import app, flags, logging
import jax
import ml_collections
import numpy as np

from configs import tiny
from input_pipeline import from_config
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import sharding
from mat_jax.training import start
from mat_jax.training.step import accumulators, aot, loss_scale, settings
from mat_jax.training.step.train_state import TrainState

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_DTYPES = flags.DEFINE_list('dtypes', ['float32', 'bfloat16', 'float16'],
    'Of activations, the first of which the others are compared with.', flag_values=_FLAGS)
_STEPS = flags.DEFINE_integer('steps', 200, 'Steps of each.', lower_bound=1, flag_values=_FLAGS)
_WINDOW = flags.DEFINE_integer('window', 50, 'Steps of a mean; divides --steps.', lower_bound=1,
    flag_values=_FLAGS)
_RESOLUTION = flags.DEFINE_integer('resolution', 64, 'Side of the images.', flag_values=_FLAGS)
_BATCH = flags.DEFINE_integer('batch', 8, 'Images of a step.', lower_bound=1, flag_values=_FLAGS)

LOSSES = ('loss/g', 'loss/g_stage1', 'loss/l1', 'loss/d', 'loss/d_stage1')
Curves = Mapping[str, np.ndarray]


def config_of(dtype: str, resolution: int = 64, batch_size: int = 8) -> ml_collections.ConfigDict:
  """The config of a run."""
  config = tiny.get_config()
  config.model.update(dtype=dtype, resolution=resolution)
  config.train.batch_size = batch_size
  # At the rate of tiny.py, 8e-3, any two runs part after a few dozen steps.
  config.optimizer.learning_rate, config.train.r1_gamma = 2e-4, 1.0
  return config


def curves(config: ml_collections.ConfigDict, steps: int,
           window: int) -> tuple[Curves, TrainState]:
  """Trains; means of the losses over each window of steps, name -> [windows], and the state."""
  networks = start.make_networks(config)
  options, mesh = settings.training_from_config(config), sharding.make_mesh()
  state = aot.compiled_create(networks, options, mesh)(jax.random.key(0))
  step = aot.compiled_step(networks, options, mesh)
  stream = from_config.training_stream(config, *from_config.open_training(config), 0, 0, 1)
  losses = []
  for _ in range(steps):
    state, found = step(state, None, sharding.to_global(next(stream), mesh))
    losses.append(np.asarray(found))
  means = np.mean(np.reshape(losses, (-1, window, len(accumulators.LOSSES))), axis=1)
  return dict(zip(accumulators.LOSSES, means.T, strict=True)), state


def deviations(found: Curves, exact: Curves) -> dict[str, float]:
  """The largest relative deviation of each curve from its exact one."""
  return {name: float(np.max(np.abs(found[name] / exact[name] - 1))) for name in LOSSES}


def measure(dtype: str) -> tuple[Curves, dict[str, Any]]:
  """The curves of a dtype, and what to report of the run."""
  begun = time.perf_counter()
  config = config_of(dtype, _RESOLUTION.value, _BATCH.value)
  found, state = curves(config, _STEPS.value, _WINDOW.value)
  return found, {'seconds': round(time.perf_counter() - begun, 1),
                 'last': {name: float(found[name][-1]) for name in LOSSES},
                 **loss_scale.summary(jax.device_get(state.loss_scale))}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  if _STEPS.value % _WINDOW.value:
    raise UserError(f'--window={_WINDOW.value} does not divide --steps={_STEPS.value}')
  exact, report = None, {}
  for dtype in _DTYPES.value:
    found, report[dtype] = measure(dtype)
    exact = exact or found
    report[dtype]['deviation'] = deviations(found, exact)
    print(dtype, report[dtype], flush=True)
  print(json.dumps({
      'jax': jax.__version__, 'device': jax.devices()[0].device_kind, 'steps': _STEPS.value,
      'window': _WINDOW.value, 'resolution': _RESOLUTION.value, 'batch': _BATCH.value,
      'dtypes': report}))


if __name__ == '__main__':
  app.run(main)
