"""Fills the holes of a folder of pictures, of any size, with classical methods."""

from collections import deque
from collections.abc import Mapping
import os

import numpy as np
import tqdm

from eval.classical.methods import Fill
from input_pipeline.ahead import in_order
from mat_jax.errors import UserError
from mat_jax.inference.matching import match_files
from mat_jax.runtime import image_grid
from mat_jax.runtime.images import load_image
from mat_jax.runtime.mask_values import load_mask
from mat_jax.runtime.storage import bucket_cache

_Pair = tuple[str, str]


def fill_folder(images: str, masks: str, output: str, methods: Mapping[str, Fill]) -> None:
  """Writes OUTPUT/METHOD/NAME.png for every picture and method; all may be in a bucket.

  Args:
    images: a file or a folder.
    masks: a file, which then serves every picture, or a folder with a mask of the same stem for
      every picture; white is kept.
    output: a folder, made if need be; files in it are replaced.
    methods: of `methods.load`.

  Raises:
    UserError: before anything is written: missing or unmatched files, pictures that cannot be read,
      a mask of another size than its picture. Later: a file that cannot be written.
  """
  found = match_files(bucket_cache.existing_local_path(images), bucket_cache.existing_local_path(masks))
  pairs = [(image, mask) for image, mask in found if mask]
  deque(in_order(_load, pairs), maxlen=0)  # what is wrong with a file shows before hours of work

  def fill(task: tuple[Fill, _Pair]) -> np.ndarray:
    method, pair = task
    return method(*_load(pair))

  for name, method in methods.items():
    filled = in_order(fill, [(method, pair) for pair in pairs])
    for (image, _), result in zip(pairs, tqdm.tqdm(
        filled, total=len(pairs), unit='image', desc=name, disable=None), strict=True):
      stem = os.path.splitext(os.path.basename(image))[0]
      image_grid.write_png(os.path.join(output, name, f'{stem}.png'), result)


def _load(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
  """Picture, uint8 [H, W, 3], and hole, bool [H, W]."""
  image_path, mask_path = pair
  image, keep = load_image(image_path), load_mask(mask_path).keep[..., 0]
  if image.shape[:2] != keep.shape:
    (height, width), (mask_height, mask_width) = image.shape[:2], keep.shape
    raise UserError(f'the mask {mask_path} is {mask_width} x {mask_height}, its image {image_path} '
                    f'is {width} x {height}; give a mask of the size of the image')
  return image, ~keep
