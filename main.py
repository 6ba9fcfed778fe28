"""Trains, evaluates and inpaints with MAT.

  python main.py --config=configs/wikiart.py --workdir=runs/wikiart \
      --config.init_from=models/celebahq256
  python main.py --config=configs/wikiart.py --workdir=runs/wikiart --mode=eval
  python main.py --config=configs/wikiart.py --workdir=runs/wikiart --mode=inpaint \
      --config.inpaint.images=photos --config.inpaint.masks=masks

Any field of the config can be set as --config.field=value. On several hosts the same
command runs on each, with --distributed.
"""

import functools
import os

# Read by TensorFlow when it is loaded: keep its start-up messages back, and take the
# same arithmetic on every machine.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

# ruff: noqa: E402
from absl import app, flags, logging
import jax
import ml_collections
from ml_collections import config_flags

from convert import feature_nets
from eval import evaluate
from input_pipeline import from_config, pipeline
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.inference import from_config as inpainting
from mat_jax.runtime import cluster, command_line, compilation_cache
from mat_jax.training import train as training
from mat_jax.training.inputs import Inputs
from mat_jax.training.loop import Validate
from mat_jax.training.step.train_state import TrainState

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Configuration file.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints, events and results.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval', 'inpaint'], 'What to do.')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False,
    'Connects one process on each host; TPU pods and SLURM need no further flags.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of process 0, outside of TPU pods and SLURM.')
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'Number of processes, outside of TPU pods and SLURM.')
_CACHE = flags.DEFINE_string(
    'compilation_cache', None, "Folder of JAX's compilation cache, '' for none; by default "
    "JAX_COMPILATION_CACHE_DIR, or mat-jax/compilation_cache in the user's cache folder.")
# Flags and fields that may be addresses in buckets.
_IN_BUCKET = ('workdir', *(f'config.{field}' for field in (
    'data_dir', 'data.mask_dir', 'eval.baseline', 'eval.checkpoint', 'eval.mask_dir', 'init_from',
    'inpaint.checkpoint')))
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Number of this process, outside of TPU pods and SLURM.')


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; fields are set as --config.field=value')
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  if not os.path.isfile(path):
    raise UserError(f'the config file {path} does not exist; configs/ holds some to choose from')
  pipeline.hide_accelerators()
  if _DISTRIBUTED.value:
    cluster.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  compilation_cache.enable(_CACHE.value, jax.process_index())
  logging.info('JAX %s on %s, process %d of %d.', jax.__version__,
               ', '.join(sorted({d.device_kind for d in jax.devices()})),
               jax.process_index() + 1, jax.process_count())
  with cluster.ending_together():
    assert _WORKDIR.value is not None  # a required flag
    _run(_CONFIG.value, _WORKDIR.value)


def _run(config: ml_collections.ConfigDict, workdir: str) -> None:
  if _MODE.value == 'train':
    train(config, workdir, evaluate.make_validation(config))
    return
  with command_line.ended_by_sigterm():
    if _MODE.value == 'eval':
      evaluate.evaluate(config, workdir)
    else:
      inpainting.inpaint(config, workdir)


def train(config: ml_collections.ConfigDict, workdir: str,
          validate: Validate | None = None) -> TrainState:
  """Trains with the data and weights that the config names.

  Args:
    config: see `configs/base.py`.
    workdir: see `training.train`.
    validate: see `training.train`.

  Returns:
    The final state.
  """
  return training.train(config, workdir, functools.partial(_open_inputs, config), validate)


def _open_inputs(config: ml_collections.ConfigDict) -> Inputs:
  portraits, masks = from_config.open_training(config)
  count = config.train.sample_images
  return Inputs(
      len(portraits), functools.partial(from_config.training_stream, config, portraits, masks),
      from_config.sample_batch(config, count) if count else None,
      feature_nets.for_training(config.train))


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line and sets up logging; returns what is left of it."""
  command_line.set_up_logging(logging.INFO)
  return command_line.parse_flags(argv, ['config', 'workdir'], _IN_BUCKET)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
