"""Masks from files, and the choice between them and random ones."""

from collections.abc import Callable, Sequence
import os
from typing import NamedTuple

from absl import logging
import numpy as np
from PIL import Image

from input_pipeline import masks
from mat_jax.errors import UserError
from mat_jax.runtime import images
from mat_jax.runtime.folders import find_images
from mat_jax.runtime.mask_values import load_mask

ORDERS = ('auto', 'stem', 'cycle')


class Requests(NamedTuple):
  """Requests for the masks of n examples; int64 [n] each, seeds uint64.

  Attributes:
    seed: of a random mask.
    image: position of the image in its split.
    place: which of the image's masks: the epoch in training, j in an evaluation.
    position: of the example in the stream, counted over all images.
  """
  seed: np.ndarray
  image: np.ndarray
  place: np.ndarray
  position: np.ndarray


# Called with requests and float32 [n, resolution, resolution, 1]; fills it with 1 = keep,
# 0 = hole.
Masks = Callable[[Requests, np.ndarray], None]


def random_masks(
    resolution: int, preset: str, hole_range: tuple[float, float] = (0.0, 1.0)) -> Masks:
  """Returns the source of random masks; see `masks.fill_random_masks`."""
  masks.check_settings(resolution, preset, hole_range)
  return lambda requests, out: masks.fill_random_masks(out, requests.seed, preset, hole_range)


class MaskFiles:
  """The mask files of a folder, matched to images by name or taken in turn."""

  def __init__(self, folder: str, resolution: int, stems: Callable[[], Sequence[str]],
               order: str = 'auto', seed: int = 0):
    """Lists the files and checks their sizes, which their headers tell.

    Args:
      folder: image files, searched recursively; what is white is kept, see `load_mask`.
      resolution: the side that every mask must have, in pixels.
      stems: returns the names of the images without their endings; called where they
        matter. The masks of `a/b` are `b.png`, or `b_0.png`, `b_1.png` and so on.
      order: 'stem' for a mask for every image by its name; 'cycle' for all masks in
        turn, in an order shuffled by the seed, whatever their names; 'auto' for the
        first if all images have masks of their own and for the second if none has.
      seed: of that order.

    Raises:
      UserError: no such folder, no masks in it, an unreadable one, one of another
        size, images without masks.
    """
    if order not in ORDERS:
      raise UserError(f'unknown order of masks {order!r}; choose one of {", ".join(ORDERS)}')
    self._folder = folder
    self._files = find_images(folder)
    for file in self._files:
      _check_size(file, resolution)
    self._of_image = None if order == 'cycle' else self._match(stems(), order == 'stem')
    rng = np.random.Generator(np.random.Philox(key=seed))
    self._turns = rng.permutation(len(self._files))
    self._noticed = False  # that a mask has grey pixels

  def check_places(self, count: int) -> None:
    """Raises a UserError if some image has fewer than `count` masks of its own."""
    fewest = min(map(len, self._of_image)) if self._of_image else len(self._files)
    if fewest < count:
      raise UserError(f'{self._folder!r} has {fewest} masks for an image where {count} are asked '
                      'for; add masks or set masks_per_image lower')

  def __call__(self, requests: Requests, out: np.ndarray) -> None:
    """Reads the masks that are asked for; see `Masks`."""
    for mask, *numbers in zip(out, *requests[1:], strict=True):
      file = self._choose(*map(int, numbers))
      found = load_mask(file)
      if found.grey and not self._noticed:
        self._noticed = True
        logging.warning('%s Other masks of %s with such pixels are not named.',
                        found.notice(file), self._folder)
      mask[...] = found.keep

  def _choose(self, image: int, place: int, position: int) -> str:
    if self._of_image is None:
      return self._files[self._turns[position % len(self._files)]]
    own = self._of_image[image]
    return own[place % len(own)]

  def _match(self, stems: Sequence[str], required: bool) -> list[list[str]] | None:
    """Returns every image's own masks; None if no image has one and none has to."""
    by_stem: dict[str, list[str]] = {}
    for file in self._files:
      by_stem.setdefault(_stem(file), []).append(file)
    for file in self._files:
      stem, _, number = _stem(file).rpartition('_')
      if number.isdecimal() and stem:
        by_stem.setdefault(stem, []).append(file)
    own = [by_stem.get(os.path.basename(stem), []) for stem in stems]
    missing = [stem for stem, files in zip(stems, own, strict=True) if not files]
    if missing and (required or len(missing) < len(own)):
      raise UserError(
          f'{self._folder!r} has no mask for {len(missing)} of {len(own)} images, {missing[0]!r} '
          "for one; add them, or set mask_order='cycle' to take the masks in turn")
    return None if missing else [sorted(files, key=_number) for files in own]


def _stem(path: str) -> str:
  return os.path.splitext(os.path.basename(path))[0]


def _number(path: str) -> tuple[int, str]:
  """Sorts `a_10.png` behind `a_9.png`."""
  number = _stem(path).rpartition('_')[2]
  return int(number) if number.isdecimal() else -1, path


def _check_size(path: str, resolution: int) -> None:
  try:
    with Image.open(path, formats=images.FORMATS) as image:
      size = image.size
  except Exception as error:  # of many types, see `images.decode`
    raise UserError(f'the mask {path!r} cannot be read ({images.reason(error)}); repair or remove '
                    'it') from error
  if size != (resolution, resolution):
    raise UserError(f'the mask {path!r} has {size[0]} x {size[1]} pixels; give masks of '
                    f'{resolution} x {resolution}')
