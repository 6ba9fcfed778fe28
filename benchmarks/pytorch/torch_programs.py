"""Loads an exported generator in IOPaint, spandrel and ComfyUI's nodes, and compares the results.

  python -m benchmarks.pytorch.torch_programs --python=VENV/bin/python --nodes=NODES

needs an interpreter with the packages iopaint, spandrel and spandrel_extra_arches, and a clone of
Acly/comfyui-inpaint-nodes; none is part of this project, and --programs leaves some out. The
generator of 512 px has known weights (`benchmarks.reference.fill`), or is that of --checkpoint. It
goes the way of a user: `convert.from_torch`, `Inpainter.save_pretrained`, `convert.to_torch
--target=iopaint`. Each program then loads the file by its own code, which is strict, and completes
a picture with its own latents and keep masks, and ours does with the same ones. The last line is
JSON: for each program the number of tensors, those that are not the file's (none), and of the
values in the hole the largest difference from ours, in levels of 256 and, where the program gives
floats, in these, which are meant to be from 0 to 1 and reach as far from 0.5 as 'reach'; and the
share of values that are neither 0 nor 1 when clipped, since others would hide differences.
"""

import json
import os
import subprocess
import tempfile
from typing import Any

from absl import app, flags, logging
import jax
import numpy as np
from PIL import Image
import safetensors.numpy

from benchmarks.reference import fill, published
from convert import from_torch, saved_models, to_torch
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.inference.completion import complete_latents
from mat_jax.inference.inpainter import Inpainter
from mat_jax.nn import model_config

PROGRAMS = ('iopaint', 'spandrel', 'comfyui')
_RESOLUTION = 512
# Where IOPaint looks below its --model-dir, by the name of the model of Places.
_PLACE = 'torch/hub/checkpoints/Places_512_FullData_G.pth'

_SCALE, _STAGE1_SCALE = 0.02, 0.1

_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_PYTHON = flags.DEFINE_string('python', None, 'Interpreter that has the programs.',
                              flag_values=_FLAGS)
_NODES = flags.DEFINE_string('nodes', '', 'Clone of Acly/comfyui-inpaint-nodes.',
                             flag_values=_FLAGS)
_PROGRAMS = flags.DEFINE_list('programs', list(PROGRAMS), 'Which of them.', flag_values=_FLAGS)
_CHECKPOINT = flags.DEFINE_string('checkpoint', '', 'Of 512 px; none takes known weights.',
                                  flag_values=_FLAGS)


def known_weights() -> dict[str, np.ndarray]:
  """A state dict of 512 px whose images are about as large as pictures.

  Those of the values of `fill` reach far beyond white, where clipping would hide differences.
  """
  found = published.state_dict('generator', resolution=_RESOLUTION)
  for name in found:
    if name.endswith(('.toRGB.conv.weight', '.toRGB.bias')):  # in which images are linear
      found[name] = found[name] * np.float32(_STAGE1_SCALE if '.first_stage.' in name else _SCALE)
  return found


def write_files(folder: str, checkpoint: str) -> dict[str, str]:
  """Exports a generator for the programs, and writes a picture and a mask in which white is hole.

  Args:
    folder: for everything.
    checkpoint: of the generator; '' makes one of known weights.

  Returns:
    What the worker has to know.
  """
  if not checkpoint:
    weights, checkpoint = (os.path.join(folder, name) for name in ('weights.safetensors', 'model'))
    safetensors.numpy.save_file(known_weights(), weights)
    from_torch.convert_file(weights, checkpoint)
  saved, models = os.path.join(folder, 'saved'), os.path.join(folder, 'models')
  Inpainter.from_checkpoint(checkpoint).save_pretrained(saved, 'apache-2.0')
  os.makedirs(os.path.dirname(os.path.join(models, _PLACE)))
  exported = os.path.join(folder, 'exported.safetensors')
  for output in (os.path.join(models, _PLACE), exported):
    to_torch.convert_file(saved, output, target='iopaint')
  image, mask, _ = fill.inputs('programs', 1, _RESOLUTION)
  pixels = np.rint(published.nhwc(image)[0] * 127.5 + 127.5).astype(np.uint8)
  paths = {name: os.path.join(folder, f'{name}.png') for name in ('image', 'mask')}
  Image.fromarray(pixels).save(paths['image'])
  Image.fromarray((255 * (1 - mask[0, 0])).astype(np.uint8)).save(paths['mask'])
  return {**paths, 'folder': folder, 'models': models, 'file': exported, 'saved': saved}


def run_program(python: str | None, task: dict[str, str]) -> dict[str, Any]:
  """Runs a program; what it says of itself. Its arrays are in the file `task['output']`."""
  if not python:
    raise UserError('no interpreter is given; name one that has the programs by --python')
  worker = os.path.join(os.path.dirname(__file__), 'torch_programs_worker.py')
  done = subprocess.run([python, worker, json.dumps(task)], stdout=subprocess.PIPE, text=True,
                        env=os.environ | {'HF_HUB_OFFLINE': '1'}, check=False)
  if done.returncode:
    raise UserError(f'{task["program"]} ended with exit code {done.returncode}; what it printed '
                    'says why')
  return json.loads(done.stdout.splitlines()[-1])


def complete(folder: str, task: dict[str, str], drawn: dict[str, np.ndarray]) -> np.ndarray:
  """Our completion of the picture with what a program drew, float32 [512, 512, 3] from 0 to 1.

  Args:
    folder: of the saved model.
    task: names the picture and its mask.
    drawn: 'z' [1, 512], 'first' [1, tokens, 180] and 'second' [1, 512, 32, 32], as in PyTorch.
  """
  checkpoint = saved_models.read_folder(folder)
  generator = model_config.generator_from_config(checkpoint.model)
  with Image.open(task['image']) as image, Image.open(task['mask']) as hole:
    pixels = np.asarray(image, np.float32)[None] / np.float32(127.5) - 1
    mask = 1 - np.asarray(hole, np.float32)[None, ..., None] / 255
  keep = {'first': drawn['first'], 'second': published.nhwc(drawn['second'])}
  # These programs have no noise.
  found, _ = complete_latents(generator, checkpoint.variables, pixels, mask,
                              drawn['z'].astype(np.float32), keep, noise_mode='none')
  return np.asarray(jax.device_get(found))[0] * 0.5 + 0.5


def compare(theirs: np.ndarray, ours: np.ndarray, hole: np.ndarray) -> dict[str, float]:
  """Differences of two completions inside of the hole.

  Args:
    theirs: uint8, or floats from 0 to 1 and somewhat beyond, [H, W, 3].
    ours: float32 [H, W, 3] from 0 to 1.
    hole: bool [H, W].
  """
  theirs, ours = theirs[hole], ours[hole]
  if not np.isfinite(theirs.astype(np.float64)).all():
    raise UserError('the completion has values that are not finite')
  levels = theirs if theirs.dtype == np.uint8 else np.rint(np.clip(theirs, 0, 1) * 255)
  found = {'levels': float(np.abs(levels.astype(np.float64) - np.rint(ours * 255)).max()),
           'inside': round(float(((ours > 0) & (ours < 1)).mean()), 3)}
  if theirs.dtype != np.uint8:
    found['difference'] = float(np.abs(np.clip(theirs, 0, 1) - ours).max())
    found['reach'] = float(np.abs(theirs - 0.5).max())
  return found


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  rows = {}
  with tempfile.TemporaryDirectory() as folder:
    task = write_files(folder, _CHECKPOINT.value)
    with Image.open(task['mask']) as mask:
      hole = np.asarray(mask) > 0
    for program in _PROGRAMS.value:
      own = {**task, 'program': program, 'nodes': _NODES.value,
             'output': os.path.join(folder, f'{program}.npz')}
      rows[program] = run_program(_PYTHON.value, own)
      with np.load(own['output']) as arrays:
        drawn = dict(arrays)
      rows[program] |= compare(drawn['result'], complete(task['saved'], own, drawn), hole)
      print(f'{program}: {rows[program]}', flush=True)
  print(json.dumps(rows))


if __name__ == '__main__':
  app.run(main)
