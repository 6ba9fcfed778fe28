"""Times a training run from the command to its first step, twice: on an empty cache, and resumed.

  python -m benchmarks.measured.start_time

`main.py` trains configs/wikiart.py (256 px, full size, R1 and VGG16) on the sample portraits, in a
new process with a compilation cache of its own that is empty, is stopped by SIGTERM after one step,
and goes on in another process by the same command. Seconds since the command, read off the log:
until Python has loaded everything (`imported`), until the state is there, fresh or resumed
(`state`), until the first step begins (`first_step`), and until it is done and reported (`reported`);
the first start also makes a sample grid before it. The last line is JSON. Lower is better.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import jax

from mat_jax.errors import UserError, exit_on_user_error

# Milestone -> what the log says when it is reached, in this order.
_MILESTONES = {'imported': r'JAX \S+ on ', 'state': r'Training on \d+ images',
               'first_step': r'Compiled the training step in', 'reported': r'tick \d+ '}

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_CONFIG = flags.DEFINE_string('config', 'configs/wikiart.py', 'What to train.', flag_values=_FLAGS)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 2, 'Images of a step.', lower_bound=1,
    flag_values=_FLAGS)


def command(config: str, batch_size: int, folder: str) -> list[str]:
  """The command of a run in `folder` that reports after each step."""
  return [sys.executable, 'main.py', f'--config={config}', f'--workdir={folder}/run',
          f'--compilation_cache={folder}/cache', '--config.data_dir=samples',
          f'--config.train.batch_size={batch_size}',
          f'--config.train.kimg_per_tick={batch_size / 1000}',
          '--config.train.snapshot_ticks=1000000']


def start(words: list[str]) -> dict[str, float]:
  """Runs the command until its first step is reported, then stops it by SIGTERM.

  Returns:
    Milestone -> seconds since the command.

  Raises:
    UserError: the run ends before, or not in order.
  """
  begun, found, last = time.monotonic(), {}, ''
  with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                        env={**os.environ, 'JAX_PLATFORMS': 'cpu'}) as process:
    assert process.stderr is not None
    for line in process.stderr:
      last = line.strip() or last
      for name, pattern in _MILESTONES.items():
        if name not in found and re.search(pattern, line):
          found[name] = round(time.monotonic() - begun, 1)
          if name == 'reported':
            process.send_signal(signal.SIGTERM)
  if process.returncode or list(found) != list(_MILESTONES):
    raise UserError(f'the run ended with exit code {process.returncode}: {last}')
  return found


def measure(config: str, batch_size: int) -> dict[str, dict[str, float]]:
  """The milestones of a first start on an empty cache (`cold`) and of the next (`warm`)."""
  with tempfile.TemporaryDirectory() as folder:
    words = command(config, batch_size, folder)
    return {'cold': start(words), 'warm': start(words)}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  found = measure(_CONFIG.value, _BATCH_SIZE.value)
  for name, milestones in found.items():
    print(f'{name}: ' + ', '.join(f'{key} {value} s' for key, value in milestones.items()))
  print(json.dumps({'jax': jax.__version__, 'cores': len(os.sched_getaffinity(0)),
                    'config': _CONFIG.value, 'batch_size': _BATCH_SIZE.value, **found}))


if __name__ == '__main__':
  app.run(main)
