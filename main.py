"""Trains, evaluates and inpaints with MAT.

  python main.py --config=configs/wikiart.py --workdir=runs/wikiart
  python main.py --config=configs/wikiart.py --workdir=runs/wikiart --mode=eval
  python main.py --config=configs/wikiart.py --workdir=runs/wikiart --mode=inpaint \
      --config.inpaint.images=photos --config.inpaint.masks=masks

Any field of the config can be set as --config.field=value.
"""

import os
import sys

# Read by TensorFlow when it is loaded: keep its start-up messages back.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# ruff: noqa: E402
from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags

from eval import evaluate
from input_pipeline import pipeline
from mat_jax import inpaint
from mat_jax import train
from mat_jax.errors import EXIT_CODE, exit_on_user_error, UserError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Configuration file.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints, events and results.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval', 'inpaint'], 'What to do.')


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; fields are set as --config.field=value')
  pipeline.hide_accelerators()
  logging.info('JAX %s on %s, process %d of %d.', jax.__version__,
               ', '.join(sorted({d.device_kind for d in jax.devices()})),
               jax.process_index() + 1, jax.process_count())
  config, workdir = _CONFIG.value, _WORKDIR.value
  if _MODE.value == 'train':
    train.train(config, workdir, evaluate.make_validation(config))
  elif _MODE.value == 'eval':
    evaluate.evaluate(config, workdir)
  else:
    inpaint.inpaint_files(config, workdir)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; a mistake in it is one sentence and exit code 2."""
  logging.set_verbosity(logging.INFO)
  try:
    flags.mark_flags_as_required(['config', 'workdir'])
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    print(f'error: {str(error).splitlines()[0]}', file=sys.stderr)
    sys.exit(EXIT_CODE)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
