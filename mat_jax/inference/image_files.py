"""Inpainting of image files: `--mode=inpaint`."""

import functools
import os

from absl import logging
import jax
import ml_collections
import numpy as np
import tqdm

from mat_jax.checkpoints.reader import resolve_model_config, restore_ema
from mat_jax.errors import UserError
from mat_jax.inference.inpainter import Inpainter
from mat_jax.runtime import cluster, image_grid
from mat_jax.runtime.folders import find_images
from mat_jax.runtime.images import load_image, read_size
from mat_jax.runtime.mask_values import load_mask


def match_files(images: str, masks: str) -> list[tuple[str, str]]:
  """Pairs of image and mask files.

  Args:
    images: a file, or a folder.
    masks: a file, which then serves every image, or a folder with a mask of the
      same stem for every image.

  Returns:
    (image, mask) paths, sorted by image.

  Raises:
    UserError: something is missing or ambiguous.
  """
  image_files, mask_files = (_list_files(path, field) for path, field in (
      (images, 'inpaint.images'), (masks, 'inpaint.masks')))
  _check_stems(image_files)
  if os.path.isfile(masks):
    return [(image, masks) for image in image_files]
  by_stem = {_stem(path): path for path in mask_files}
  for image in image_files:
    if _stem(image) not in by_stem:
      raise UserError(f'there is no mask for {image} in {masks}; add {_stem(image)}.png there')
  return [(image, by_stem[_stem(image)]) for image in image_files]


def _stem(path: str) -> str:
  return os.path.splitext(os.path.basename(path))[0]


def _list_files(path: str, field: str) -> list[str]:
  if not path:
    raise UserError(f'{field} is empty; set --config.{field} to a file or folder')
  return [path] if os.path.isfile(path) else find_images(path)


def _check_stems(files: list[str]) -> None:
  """Results are named by stem, so two images must not share one."""
  seen: dict[str, str] = {}
  for file in files:
    other = seen.setdefault(_stem(file), file)
    if other != file:
      raise UserError(f'{other} and {file} would both become {_stem(file)}.png; rename one')


def _check_pair(image_path: str, mask_path: str) -> None:
  """Raises UserError for an image and a mask of different size, which their headers tell."""
  paths = (image_path, mask_path)
  sizes = [read_size(path) for path in paths]
  if sizes[0] != sizes[1]:  # a PNG file may say behind its pixels that it lies on its side
    sizes = [load_image(path).shape[1::-1] for path in paths]
  if sizes[0] != sizes[1]:
    (width, height), (mask_width, mask_height) = sizes
    raise UserError(f'the mask {mask_path} is {mask_width} x {mask_height}, its image '
                    f'{image_path} is {width} x {height}; give a mask of the size of the image')


def inpaint_files(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Fills the holes of image files and writes PNG files.

  Of several processes each checks all files, and fills every n-th image.

  Args:
    config: see `configs/base.py`; uses `inpaint` and checks `model`.
    workdir: holds the checkpoint unless `config.inpaint.checkpoint` names one.

  Raises:
    UserError: before anything is written: missing or unmatched files, headers that cannot be
      read; no checkpoint, or one of another architecture. At the end, when all other images
      are written: files whose pixels cannot be read.
  """
  options = config.inpaint
  if options.num_samples < 1:
    raise UserError(f'inpaint.num_samples is {options.num_samples}; give a number >= 1')
  pairs = match_files(options.images, options.masks)
  for pair in pairs:
    _check_pair(*pair)
  checkpoint = restore_ema(options.checkpoint or workdir)
  model = resolve_model_config(config.model, checkpoint.model, checkpoint.path)
  inpainter = Inpainter(checkpoint, model, config.implementations)
  output = options.output or os.path.join(workdir, 'inpaint')
  os.makedirs(output, exist_ok=True)
  own = pairs[jax.process_index()::jax.process_count()]
  failures = _inpaint_pairs(inpainter, own, options, output)
  cluster.barrier('inpaint its images')
  logging.info('Inpainted %d images into %s.', len(own) - len(failures), output)
  if failures:
    more = f' (and {len(failures) - 1} more, see above)' if len(failures) > 1 else ''
    raise UserError(f'{len(failures)} of {len(own)} images are not done, the others are: '
                    f'{failures[0]}{more}')


def _inpaint_pairs(inpainter: Inpainter, pairs: list[tuple[str, str]],
                   options: ml_collections.ConfigDict, output: str) -> list[UserError]:
  """Fills the images that can be read, and returns what is wrong with the others."""
  failures = []
  read_mask_file = functools.lru_cache(maxsize=1)(_load_mask)  # one may serve all images
  for image_path, mask_path in tqdm.tqdm(pairs, unit='image', desc='inpainting', disable=None):
    try:
      image, keep = load_image(image_path), read_mask_file(mask_path)
      results = inpainter.inpaint(
          image, keep, options.seed, options.num_samples, options.truncation_psi)
    except UserError as error:
      logging.error('%s', error)
      failures.append(error)
      continue
    for i, result in enumerate(results):
      suffix = f'_{i}' if options.num_samples > 1 else ''
      image_grid.write_png(os.path.join(output, f'{_stem(image_path)}{suffix}.png'), result)
  return failures


def _load_mask(path: str) -> np.ndarray:
  """Reads a mask, bool [H, W, 1], True = keep; warns of pixels neither black nor white."""
  mask = load_mask(path)
  if mask.grey:
    logging.warning('%s', mask.notice(path))
  return mask.keep
