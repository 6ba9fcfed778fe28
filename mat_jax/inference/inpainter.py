"""Inpainting of pictures of any size with a trained generator.

Holes are filled window by window (`mat_jax.inference.planning.plan`), each seeing what is filled
already; kept pixels stay what they were, in the picture's own type.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import importlib
import types
from typing import Any

from absl import logging
import ml_collections
import numpy as np

from mat_jax.checkpoints.digest import variables_digest
from mat_jax.checkpoints.reader import EmaCheckpoint, is_saved_model, restore_ema
from mat_jax.errors import UserError
from mat_jax.inference.canvas import Canvas
from mat_jax.inference.filling import Filler
from mat_jax.inference.options import InpaintOptions
from mat_jax.inference.planning.plan import plan
from mat_jax.inference.planning.windows import Plan
from mat_jax.inference.variants import Variant, between, variants_of
from mat_jax.nn import model_config
from mat_jax.runtime.mask_values import read_mask


@dataclasses.dataclass(frozen=True)
class Completions:
  """The completions of a picture.

  Attributes:
    variants: the randomness of each.
    canvases: each as the original and what is filled.
    plan: the windows, and notices about them.
  """

  variants: tuple[Variant, ...]
  canvases: tuple[Canvas, ...]
  plan: Plan


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
    self._filler = Filler(self._generator, checkpoint.variables)

  @classmethod
  def from_checkpoint(cls, path: str) -> 'Inpainter':
    """Loads a workdir, a converted model, a step directory, a packed, shipped or saved model.

    Args:
      path: see `read_checkpoint`.

    Raises:
      UserError: there is no readable checkpoint.
    """
    return cls(read_checkpoint(path))

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
    _saved_form().save_pretrained(self.checkpoint, folder, license, **card)

  @property
  def resolution(self) -> int:
    """Native resolution of the network, in pixels."""
    return self._generator.resolution

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of the weights, in hexadecimal digits."""
    return variables_digest(self.checkpoint.variables)

  def inpaint(self, image: np.ndarray, mask: np.ndarray, seed: int = 0, num_samples: int = 1,
              truncation_psi: float = 1.0, options: InpaintOptions | None = None) -> np.ndarray:
    """Fills the holes of a picture of any size.

    Args:
      image: uint8 or uint16 [H, W, C]: grey, grey and alpha, RGB, or RGBA.
      mask: [H, W] or [H, W, 1], bool, uint8, uint16 or floats from 0 to 1; the largest value
        of its type is kept, all else is hole, see `mask_values.read_mask`.
      seed: sample i uses seed + i.
      num_samples: number of completions.
      truncation_psi: 1 for full variety, 0 for the average style.
      options: everything that can be chosen, instead of the three before it.

    Returns:
      [num_samples, H, W, C] in the type of the image; kept pixels equal the input's.

    Raises:
      UserError: shapes or dtypes do not match, or a mask whose meaning is not known.
    """
    options = options or InpaintOptions(
        seed=seed, num_samples=num_samples, truncation_psi=truncation_psi)
    completions = self.complete(image, ~_known(image, mask), options)
    for notice in completions.plan.notices:
      logging.warning('%s', notice)
    return np.stack([canvas.picture() for canvas in completions.canvases])

  def complete(self, pixels: np.ndarray, hole: np.ndarray, options: InpaintOptions,
               variants: Sequence[Variant] | None = None, is_opaque: bool = False,
               on_window: Callable[[int], None] = lambda total: None) -> Completions:
    """Fills the holes of a picture, without copies of it.

    Args:
      pixels: as `image` of `inpaint`.
      hole: bool [H, W].
      options: how.
      variants: the randomness of each completion, instead of that in `options`.
      is_opaque: whether filled pixels lose their transparency.
      on_window: called with their total for every window that is filled.

    Returns:
      The completions, and how they were made.

    Raises:
      UserError: the strategy 'crop' and a hole that does not fit.
    """
    variants = tuple(variants_of(options) if variants is None else variants)
    windows = plan(hole, self.resolution, options.context, options.strategy, options.max_enlarge)
    total = len(windows.windows) * len(variants)
    canvases = [Canvas(pixels, is_opaque) for _ in variants]
    self._filler.fill(canvases, hole, windows, variants, options, lambda: on_window(total))
    return Completions(variants, tuple(canvases), windows)

  def interpolate(self, image: np.ndarray, mask: np.ndarray, seeds: tuple[int, int], steps: int,
                  options: InpaintOptions | None = None) -> np.ndarray:
    """The way from one completion's latents to another's; the keep masks stay the first's.

    Args:
      image: as of `inpaint`.
      mask: likewise.
      seeds: of both.
      steps: number of completions, both ends included.
      options: how; its seeds do not count.

    Returns:
      [steps, H, W, C].
    """
    found = self.complete(image, ~_known(image, mask), options or InpaintOptions(),
                          between(*seeds, steps))
    return np.stack([canvas.picture() for canvas in found.canvases])


def read_checkpoint(path: str) -> EmaCheckpoint:
  """Reads whatever holds a generator for inpainting.

  Args:
    path: see `mat_jax.checkpoints.reader.restore_ema`; or a folder that
      `Inpainter.save_pretrained` wrote.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  if is_saved_model(path):
    return _saved_form().from_pretrained(path)
  return restore_ema(path)


def _saved_form() -> types.ModuleType:
  """`convert.pretrained`: it knows PyTorch's names, and is installed beside this package.

  Looked up when it is asked for, since `convert` is built on this package and not the reverse.
  """
  return importlib.import_module('convert.pretrained')


def _known(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Checks the inputs and returns bool [H, W], True where a pixel is kept."""
  if (image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4)
      or image.dtype not in (np.uint8, np.uint16)):
    raise UserError(f'the image is {image.dtype} {image.shape}; give uint8 or uint16 [H, W, C], '
                    'C from 1 to 4')
  mask = np.asarray(mask)
  if mask.shape not in (image.shape[:2], (*image.shape[:2], 1)):
    raise UserError(f'the mask is {mask.shape}, the image {image.shape[:2]}; '
                    'give a mask of the size of the image')
  found = read_mask(mask)
  if found.grey:
    logging.warning('%s', found.notice('The mask'))
  return found.keep[..., 0]
