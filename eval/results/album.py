"""Pictures of an evaluation: files for the report, see `picture_paths`, and a grid to look at."""

from collections.abc import Sequence
import os

import numpy as np
from PIL import Image

from eval.results.picture_paths import mask_path, original_path, result_path
from mat_jax.runtime import image_grid

Arrays = dict[str, np.ndarray]

_SHOWN_SIDE = 128  # smaller pictures are enlarged to it


class Album:
  """Keeps some of the pictures that an evaluation makes.

  Attributes:
    shown: the first pictures of different images, name -> uint8 [n, H, W, C].
  """

  def __init__(self, folder: str | None, num_files: int, num_shown: int,
               methods: Sequence[str] = ()):
    """Prepares to write files.

    Args:
      folder: exists; None to write none.
      num_files: how many pairs of each set of masks become files.
      num_shown: how many images are kept in memory, each with its first mask of the first set.
      methods: classical methods, whose pictures become files too.
    """
    self._folder, self._num_files, self._num_shown = folder, num_files, num_shown
    self._methods = methods
    self._parts: list[Arrays] = []
    self._written: dict[str, int] = {}

  @property
  def shown(self) -> Arrays:
    return {name: np.concatenate([part[name] for part in self._parts])[:self._num_shown]
            for name in (self._parts[0] if self._parts else ())}

  def add(self, mask_set: str, batch: Arrays) -> None:
    """Takes of a batch of pairs what is wanted; an observer of `completion`."""
    first = batch['mask_index'] == 0
    is_first_set = not self._written or mask_set == next(iter(self._written))
    if is_first_set and first.any() and (
        sum(len(part['mask']) for part in self._parts) < self._num_shown):
      self._parts.append({name: value[first] for name, value in batch.items()})
    written = self._written.setdefault(mask_set, 0)
    count = min(len(batch['mask']), self._num_files - written) if self._folder else 0
    for i in range(count):
      self._write(mask_set, {name: value[i] for name, value in batch.items()})
    self._written[mask_set] += count

  def _write(self, mask_set: str, pair: Arrays) -> None:
    assert self._folder is not None
    index, mask = int(pair['image_index']), int(pair['mask_index'])
    original = original_path(self._folder, index)
    if not os.path.exists(original):
      _save(original, pair['original'])
    _save(mask_path(self._folder, mask_set, index, mask), pair['mask'][..., 0])
    _save(result_path(self._folder, mask_set, index, mask), pair['result'])
    for name in self._methods:
      _save(result_path(self._folder, mask_set, index, mask, name), pair[name])


def _save(path: str, picture: np.ndarray) -> None:
  os.makedirs(os.path.dirname(path), exist_ok=True)
  Image.fromarray(picture).save(path)


def masked(shown: Arrays) -> np.ndarray:
  """The pictures with a gray hole."""
  return np.where(shown['mask'] > 0, shown['original'], np.uint8(128))


def comparison(shown: Arrays, filled: Sequence[str]) -> np.ndarray:
  """Rows of masked, those named in `filled`, result and original; uint8 [H, W, 3]."""
  grid = image_grid.grid([masked(shown), *(shown[name] for name in filled), shown['result'],
                          shown['original']])
  return image_grid.enlarge(grid, _SHOWN_SIDE // shown['original'].shape[1])
