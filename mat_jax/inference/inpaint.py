"""Inpainting of pictures of any size with a trained generator.

The network sees one square around the hole, scaled to the size it was built
for; beyond that size its lowest stage would not mix (MAT is not convolutional
there). Only hole pixels are written back, so kept pixels stay what they were.
"""

import functools
import os
from typing import NamedTuple

from absl import logging
import jax
import ml_collections
import numpy as np
from PIL import Image
import tqdm

from input_pipeline.images import load_image, read_size
from input_pipeline.mask_files import load_mask
from input_pipeline.sources.folder import find_images
from mat_jax.checkpoints.reader import EmaCheckpoint, fit_model, restore_ema
from mat_jax.errors import UserError
from mat_jax.inference import completion
from mat_jax.mask_values import read_mask
from mat_jax.nn import model_config
from mat_jax.runtime import cluster, image_grid

# Side of the network's view over the longer side of the hole's bounding box.
CONTEXT = 1.5


class Window(NamedTuple):
  """A square view; parts outside of the picture count as hole.

  Attributes:
    top: first row, may be negative.
    left: first column, may be negative.
    side: rows and columns.
  """

  top: int
  left: int
  side: int


def find_window(hole: np.ndarray, resolution: int) -> Window:
  """The square that the network gets to see.

  It holds the whole hole with context around it, is not smaller than the
  network's own size as far as the picture is, and not larger than the picture's
  longer side.

  Args:
    hole: bool [H, W] with at least one True.
    resolution: side the network is built for.

  Returns:
    The window, inside the picture wherever the picture is large enough.
  """
  height, width = hole.shape
  spans = []
  for axis in (1, 0):
    indices = np.flatnonzero(hole.any(axis=axis))
    spans.append((int(indices[0]), int(indices[-1]) + 1))
  longest = max(stop - start for start, stop in spans)
  longer_side = max(height, width)
  side = min(max(int(np.ceil(CONTEXT * longest)), min(resolution, longer_side)), longer_side)
  side = max(side, longest)

  def place(span: tuple[int, int], size: int) -> int:
    if side >= size:
      return (size - side) // 2
    return min(max((span[0] + span[1] - side) // 2, 0), size - side)

  return Window(place(spans[0], height), place(spans[1], width), side)


def _cut(array: np.ndarray, window: Window) -> np.ndarray:
  """The window of [H, W, C], zeros outside."""
  out = np.zeros((window.side, window.side, array.shape[2]), array.dtype)
  top, left = max(window.top, 0), max(window.left, 0)
  bottom = min(window.top + window.side, array.shape[0])
  right = min(window.left + window.side, array.shape[1])
  out[top - window.top:bottom - window.top, left - window.left:right - window.left] = (
      array[top:bottom, left:right])
  return out


def _resize(array: np.ndarray, side: int, method: Image.Resampling) -> np.ndarray:
  """Antialiased resize of float32 [H, W, C] to a square."""
  channels = [np.asarray(Image.fromarray(array[..., c], 'F').resize((side, side), method))
              for c in range(array.shape[2])]
  return np.stack(channels, axis=-1)


def _shrink_known(image: np.ndarray, known: np.ndarray,
                  side: int) -> tuple[np.ndarray, np.ndarray]:
  """Resizes a view so that nothing of the hole leaks into what counts as known.

  Args:
    image: float32 [S, S, 3].
    known: float32 [S, S, 1], 1 = known.
    side: target.

  Returns:
    Image and mask of that side; a pixel is known when all its sources are.
  """
  if len(image) == side:
    return image * known, known
  weight = _resize(known, side, Image.Resampling.BILINEAR)
  mask = (_resize(known, side, Image.Resampling.BOX) > 1 - 1e-3).astype(np.float32)
  blurred = _resize(image * known, side, Image.Resampling.BILINEAR)
  return blurred / np.maximum(weight, 1e-3) * mask, mask


class Inpainter:
  """A generator that completes single pictures."""

  def __init__(self, checkpoint: EmaCheckpoint, model: ml_collections.ConfigDict | None = None,
               implementations: str = 'auto'):
    """Wraps the averaged generator of a checkpoint.

    Args:
      checkpoint: its variables.
      model: `config.model`, by default the checkpoint's.
      implementations: `config.implementations`.
    """
    self.checkpoint = checkpoint
    self._generator = model_config.generator_from_config(model or checkpoint.model, implementations)

  @classmethod
  def from_checkpoint(cls, path: str) -> 'Inpainter':
    """Loads a workdir, a converted model, or a step directory.

    Args:
      path: see `step_directories.find_step`.

    Raises:
      UserError: there is no readable checkpoint.
    """
    return cls(restore_ema(path))

  @property
  def resolution(self) -> int:
    """Side in pixels that the network is built for."""
    return self._generator.resolution

  def inpaint(self, image: np.ndarray, mask: np.ndarray, seed: int = 0, num_samples: int = 1,
              truncation_psi: float = 1.0) -> np.ndarray:
    """Fills the hole of a picture of any size.

    Args:
      image: uint8 [H, W, 3].
      mask: [H, W] or [H, W, 1], bool, uint8, uint16 or floats from 0 to 1; the largest value
        of its type is kept, all else is hole, see `mask_values.read_mask`.
      seed: sample i uses seed + i.
      num_samples: number of completions.
      truncation_psi: 1 for full variety, 0 for the average style.

    Returns:
      uint8 [num_samples, H, W, 3]; kept pixels equal the input's.

    Raises:
      UserError: shapes or dtypes do not match, or a mask whose meaning is not known.
    """
    known = _known(image, mask)
    results = np.repeat(image[None], num_samples, axis=0)
    if known.all():
      return results
    window = find_window(~known[..., 0], self.resolution)
    view = _cut(image, window).astype(np.float32) / 127.5 - 1.0
    inputs = _shrink_known(view, _cut(known, window).astype(np.float32), self.resolution)
    for i in range(num_samples):
      filled = self._complete(*inputs, seed + i, truncation_psi)
      self._paste(results[i], filled, known, window)
    return results

  def _complete(self, image: np.ndarray, mask: np.ndarray, seed: int,
                truncation_psi: float) -> np.ndarray:
    seeds = np.array([seed % 2**32], np.uint32)
    result, _ = completion.complete(
        self._generator, self.checkpoint.variables, image[None], mask[None], seeds,
        truncation_psi)
    return np.asarray(jax.device_get(result))[0]

  @staticmethod
  def _paste(target: np.ndarray, filled: np.ndarray, known: np.ndarray, window: Window) -> None:
    """Writes the hole pixels of `target`, in place."""
    if len(filled) != window.side:
      filled = _resize(filled, window.side, Image.Resampling.BICUBIC)
    rows = slice(max(window.top, 0), min(window.top + window.side, target.shape[0]))
    columns = slice(max(window.left, 0), min(window.left + window.side, target.shape[1]))
    part = image_grid.to_uint8(filled)[
        rows.start - window.top:rows.stop - window.top,
        columns.start - window.left:columns.stop - window.left]
    target[rows, columns] = np.where(known[rows, columns], target[rows, columns], part)


def _known(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Checks the inputs and returns bool [H, W, 1], True where a pixel is kept."""
  if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
    raise UserError(f'the image is {image.dtype} {image.shape}; give uint8 [H, W, 3]')
  mask = np.asarray(mask)
  if mask.shape not in (image.shape[:2], (*image.shape[:2], 1)):
    raise UserError(f'the mask is {mask.shape}, the image {image.shape[:2]}; '
                    'give a mask of the size of the image')
  found = read_mask(mask)
  if found.grey:
    logging.warning('%s', found.notice('The mask'))
  return found.keep


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
  model = fit_model(config.model, checkpoint.model, checkpoint.path)
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
  """What a mask file keeps, bool [H, W, 1], with a warning of what is neither black nor white."""
  mask = load_mask(path)
  if mask.grey:
    logging.warning('%s', mask.notice(path))
  return mask.keep
