"""Inpainting of pictures of any size with a trained generator.

The network sees one square around the hole, scaled to its native resolution; beyond that size
the windows of its lowest transformer stage would not cover the map and would not be shifted.
Only hole pixels are written back, so kept pixels stay what they were.
"""

import importlib
import types
from typing import Any, NamedTuple

from absl import logging
import jax
import ml_collections
import numpy as np
from PIL import Image

from mat_jax.checkpoints.reader import EmaCheckpoint, restore_ema
from mat_jax.errors import UserError
from mat_jax.inference import completion
from mat_jax.nn import model_config
from mat_jax.runtime import image_grid
from mat_jax.runtime.mask_values import read_mask

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

  It contains the whole hole with context around it. It is at least as large as the
  network's native resolution, if the picture is that large, and at most as large as the
  picture's longer side.

  Args:
    hole: bool [H, W] with at least one True.
    resolution: native resolution of the network.

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

  @classmethod
  def from_pretrained(cls, source: str, **download: Any) -> 'Inpainter':
    """Loads what `save_pretrained` wrote.

    Args:
      source: a folder, else the name of a repository on the Hugging Face Hub, for which the extra
        `hub` has to be installed.
      **download: for a repository: revision, token, cache_dir, force_download, local_files_only.

    Raises:
      UserError: there is neither, or files are missing, damaged or do not fit together.
    """
    return cls(_saved_form().from_pretrained(source, **download))

  def save_pretrained(self, folder: str, license: str, **card: Any) -> None:
    """Saves the generator as safetensors under PyTorch's names, with a model card.

    Args:
      folder: to create; it may exist if it is empty.
      license: of the weights, as the Hugging Face Hub names it: 'apache-2.0', 'cc-by-nc-4.0' ...
      **card: further fields of `convert.model_card.Card`, as description.

    Raises:
      UserError: the folder is not empty or cannot be written, or the licence is none.
    """
    module = _saved_form()
    module.save_pretrained(self.checkpoint, folder, module.model_card.Card(license, **card))

  @property
  def resolution(self) -> int:
    """Native resolution of the network, in pixels."""
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


def _saved_form() -> types.ModuleType:
  """`convert.pretrained`: it knows PyTorch's names, and is installed beside this package.

  Looked up when it is asked for, since `convert` is built on this package and not the reverse.
  """
  return importlib.import_module('convert.pretrained')


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
