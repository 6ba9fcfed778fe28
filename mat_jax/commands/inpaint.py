"""Fills the holes of pictures. Kept pixels stay as they are, in the picture's own type.

Results are named after picture and seed, with a JSON file beside each that says how it was made.
"""

import argparse
import importlib
import os
import sys
from typing import Any

import jax
import numpy as np

from mat_jax.errors import UserError
from mat_jax.features import lpips as features_lpips
from mat_jax.inference import image_files, mask_meaning, variants
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.matching import match_files
from mat_jax.inference.options import STRATEGIES, InpaintOptions
from mat_jax.runtime import compilation_cache

HELP = 'fill the holes of pictures'
# Arguments that may be addresses in buckets.
IN_BUCKET = ('model',)
_DEFAULTS = InpaintOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  add = parser.add_argument
  add('images', help="a file, a folder, or a pattern such as 'scans/*.tif'")
  add('masks', nargs='?', help='likewise, matched by name; one file serves all pictures. '
      'Not with --hole=alpha')
  add('-o', '--output', default='inpainted', help='a folder, or a file for a single completion')
  add('--model', default='small', help='a workdir, a converted, packed or saved model, a step '
      'directory, or the small model that is shipped')
  add('--hole', default='auto', choices=mask_meaning.HOLES,
      help="what is hole in the masks; alpha: the pictures' own transparency")
  add('--samples', dest='num_samples', type=int, default=1, help='completions of every picture')
  add('--seed', type=int, default=0, help='of the first completion, the next has the next seed')
  add('--psi', dest='truncation_psi', type=float, default=1.0,
      help='truncation: 1 for full variety, 0 for the average style')
  add('--latent_seed', type=int, help='one seed for the latents of all completions')
  add('--keep_seed', type=int, help='one seed for the keep masks of all completions')
  add('--strategy', default='auto', choices=STRATEGIES,
      help='what the network sees of holes larger than itself')
  add('--context', type=float, default=_DEFAULTS.context, help='window over hole, at least')
  add('--max_enlarge', type=float, default=_DEFAULTS.max_enlarge,
      help='how much a result may be enlarged without tiles')
  add('--texture', action=argparse.BooleanOptionalAction, default=_DEFAULTS.texture,
      help='make an enlarged result of patches of the known picture')
  add('--seamless', action=argparse.BooleanOptionalAction, default=_DEFAULTS.seamless,
      help='fit the result to the colours around the hole')
  add('--grain', action=argparse.BooleanOptionalAction, default=_DEFAULTS.grain,
      help='add the noise of the surroundings')
  add('--feather', type=int, default=0, help='width of a soft transition; changes kept pixels')
  add('--disagreement', action='store_true', help='write a map of where completions differ')
  add('--overwrite', action='store_true', help='replace results that exist')
  add('--max_pixels', type=int, default=image_files.FileOptions().max_pixels,
      help='limit of width x height')


def run(values: argparse.Namespace) -> None:
  """Runs the command.

  Raises:
    UserError: files or options that do not fit; pictures that cannot be read, after the others
      are done.
  """
  options, files = image_files.options_from(values)
  if (values.masks is None) != (files.hole == 'alpha'):
    raise UserError('give a mask, or --hole=alpha and none for pictures with transparency')
  tasks = image_files.tasks_of(
      match_files(values.images, values.masks), values.output, options, files)
  compilation_cache.enable(None, jax.process_index())
  inpainter = Inpainter.from_checkpoint(values.model)
  worker = image_files.FileInpainter(
      inpainter, options, files, say, lpips() if len(options.all_seeds()) > 1 else
      variants.mean_difference)
  error = image_files.describe_failures(worker.run(tasks), len(tasks))
  done = sum(os.path.exists(path) for task in tasks for path in task.results)
  if done:
    say(f'{done} of {sum(len(task.results) for task in tasks)} results are in {values.output}.')
  if error:
    raise error


def say(sentence: str) -> None:
  """Tells the user; not on stdout, which may be a pipe."""
  print(sentence, file=sys.stderr)


def lpips() -> variants.Distance:
  """LPIPS with AlexNet, or the mean difference without the package that has its weights."""
  # `convert` reads weights; it is built on this package, which only asks for it here.
  feature_nets = importlib.import_module('convert.feature_nets')
  try:
    weights = feature_nets.load_lpips('alex')
  except UserError as error:
    say(f'Completions are compared pixel by pixel ({error}).')
    return variants.mean_difference

  @jax.jit
  def distance(weights: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    return features_lpips.distance(weights, a / 127.5 - 1.0, b / 127.5 - 1.0, 'alex')

  return lambda a, b: np.asarray(distance(weights, a, b))
