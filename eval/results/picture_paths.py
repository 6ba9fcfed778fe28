"""The paths of the pictures of an evaluation.

eval/pictures/originals/IMAGE.png, eval/pictures/MASKS/masks/IMAGE_MASK.png (black = hole) and
eval/pictures/MASKS/results/IMAGE_MASK.png, images and masks by number; of a classical method
eval/pictures/MASKS/METHOD/IMAGE_MASK.png.
"""

import os

FOLDER = 'pictures'  # of the folder of an evaluation


def original_path(folder: str, image_index: int) -> str:
  """Path of the picture of an image."""
  return os.path.join(folder, 'originals', f'{image_index:05}.png')


def mask_path(folder: str, mask_set: str, image_index: int, mask: int) -> str:
  """Path of the picture of a mask."""
  return os.path.join(folder, mask_set, 'masks', f'{image_index:05}_{mask}.png')


def result_path(folder: str, mask_set: str, image_index: int, mask: int,
                system: str = 'results') -> str:
  """Path of the completed picture of a pair: MAT's, or that of a classical method."""
  return os.path.join(folder, mask_set, system, f'{image_index:05}_{mask}.png')
