"""Times the filling of small holes in a large picture, in passes of the network.

  python -m benchmarks.measured.windows
  python -m benchmarks.measured.windows --model=small --holes=10 --width=3000 --height=2000

The picture is smooth with noise, and has round holes far from each other, each of which takes one
window. A round fills all of them once from arrays (`Inpainter.inpaint`), once from file to file
(PNG), and runs the network alone as often; the first round, which compiles, does not count. The
last line is JSON: median seconds of a window and of a pass, and how many passes a window takes.
"""

import json
import os
import statistics
import tempfile
import time
from typing import Any

from absl import app, flags, logging
import jax
import numpy as np

from benchmarks.measured import completions
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.inference import completion
from mat_jax.inference.image_files import FileInpainter, FileOptions, tasks_of
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.options import InpaintOptions
from mat_jax.nn import model_config
from mat_jax.pictures import pictures
from mat_jax.runtime import compilation_cache

_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_MODEL = flags.DEFINE_string('model', 'generated',
    "A checkpoint, or 'generated' for the weights of the parity tests, 256 px.", flag_values=_FLAGS)
_WIDTH = flags.DEFINE_integer('width', 3000, 'Of the picture.', flag_values=_FLAGS)
_HEIGHT = flags.DEFINE_integer('height', 2000, 'Of the picture.', flag_values=_FLAGS)
_HOLES = flags.DEFINE_integer('holes', 10, 'Number of holes.', lower_bound=1, flag_values=_FLAGS)
_RADIUS = flags.DEFINE_integer('radius', 30, 'Of a hole, in pixels.', lower_bound=1,
    flag_values=_FLAGS)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds that count.', lower_bound=1,
    flag_values=_FLAGS)


def picture_with_holes(width: int, height: int, count: int,
                       radius: int) -> tuple[np.ndarray, np.ndarray]:
  """A picture, uint8 [height, width, 3], and its holes on a grid, bool [height, width]."""
  rows, columns = np.mgrid[:height, :width].astype(np.float32)
  noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
  smooth = np.stack([np.sin(rows / 90), np.cos(columns / 70), np.sin((rows + columns) / 110)], -1)
  image = np.clip(127 + 90 * smooth + noise, 0, 255).astype(np.uint8)
  across = int(np.ceil(np.sqrt(count * width / height)))
  down = int(np.ceil(count / across))
  hole = np.zeros((height, width), bool)
  for number in range(count):
    y, x = number // across * 2 + 1, number % across * 2 + 1
    hole |= np.hypot(rows - y * height / (2 * down), columns - x * width / (2 * across)) < radius
  return image, hole


def network_pass(inpainter: Inpainter) -> Any:
  """A function that runs the network once for one image, and waits for it."""
  generator = model_config.generator_from_config(inpainter.checkpoint.model)
  side = inpainter.resolution
  z, keep = completion.sample_jitted(generator, np.zeros(1, np.uint32), side, side)
  image, mask = np.zeros((1, side, side, 3), np.float32), np.ones((1, side, side, 1), np.float32)
  variables = inpainter.checkpoint.variables
  return lambda: jax.block_until_ready(
      completion.complete_latents(generator, variables, image, mask, z, keep))


def measure(inpainter: Inpainter, image: np.ndarray, hole: np.ndarray, count: int, folder: str,
            rounds: int) -> dict[str, list[float]]:
  """Seconds of each round after the first.

  Args:
    inpainter: the model.
    image: uint8 [H, W, 3].
    hole: bool [H, W].
    count: of windows, and of passes in a round.
    folder: for the picture files.
    rounds: that count.

  Raises:
    UserError: the holes take another number of windows.
  """
  options, files = InpaintOptions(), FileOptions(hole='white', overwrite=True)
  found = inpainter.complete(image, hole, options)
  if len(found.plan.windows) != count:
    raise UserError(f'the holes take {len(found.plan.windows)} windows instead of {count}; choose '
                    'a smaller radius or a larger picture')
  paths = [os.path.join(folder, f'{name}.png') for name in ('image', 'mask')]
  for path, pixels in zip(paths, (image, np.uint8(255) * hole[..., None]), strict=True):
    pictures.write_picture(path, pictures.Picture(pixels))
  task, = tasks_of([(paths[0], paths[1])], os.path.join(folder, 'out.png'), options, files)
  worker, run_network = FileInpainter(inpainter, options, files), network_pass(inpainter)

  def passes() -> None:
    for _ in range(count):
      run_network()

  runs = {'arrays': lambda: inpainter.inpaint(image, ~hole), 'files': lambda: worker.complete(task),
          'network': passes}
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for number in range(rounds + 1):
    for name, run in runs.items():
      begun = time.perf_counter()
      run()
      if number:
        seconds[name].append(time.perf_counter() - begun)
  return seconds


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()
  inpainter = Inpainter(completions.checkpoint_of(_MODEL.value))
  image, hole = picture_with_holes(_WIDTH.value, _HEIGHT.value, _HOLES.value, _RADIUS.value)
  with tempfile.TemporaryDirectory() as folder:
    seconds = measure(inpainter, image, hole, _HOLES.value, folder, _ROUNDS.value)
  single = {name: statistics.median(values) / _HOLES.value for name, values in seconds.items()}
  print(json.dumps({
      'model': _MODEL.value, 'resolution': inpainter.resolution, 'cores': os.cpu_count(),
      'seconds': {name: round(value, 3) for name, value in single.items()},
      'passes_a_window': {name: round(single[name] / single['network'], 2)
                          for name in ('arrays', 'files')}}))


if __name__ == '__main__':
  app.run(main)
