"""Writes the pictures and masks of a split as PNG files, to try inpainting on.

  python -m input_pipeline.export --data_dir=samples --split=test --output=examples

makes examples/images/NAME.png (square), examples/masks/NAME.png (black = hole)
and examples/masked/NAME.png.
"""

import os

from absl import flags
import numpy as np
from PIL import Image

from input_pipeline import masks
from input_pipeline.image_dataset import ImageDataset, open_dataset
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line


def export(
    portraits: ImageDataset, output: str, resolution: int, mask_preset: str, seed: int) -> int:
  """Writes every image with a mask of its own.

  Args:
    portraits: image data set.
    output: folder; its subfolders images, masks and masked are made.
    resolution: side in pixels.
    mask_preset: see `masks.random_mask`.
    seed: image i gets the mask seed + i.

  Returns:
    The number of images.

  Raises:
    UserError: an unreadable image, two of one name, or a wrong setting.
  """
  stems = [os.path.basename(stem) for stem in portraits.stems()]
  if len(set(stems)) < len(stems):
    raise UserError('two images have the same name; rename one of them')
  for name in ('images', 'masks', 'masked'):
    os.makedirs(os.path.join(output, name), exist_ok=True)
  for i, stem in enumerate(stems):
    image = portraits.load(i, resolution)
    mask = masks.random_mask(seed + i, resolution, mask_preset)
    pictures = {'images': image, 'masks': (255 * mask[..., 0]).astype(np.uint8),
                'masked': np.where(mask > 0, image, 127).astype(np.uint8)}
    for name, picture in pictures.items():
      Image.fromarray(picture).save(os.path.join(output, name, f'{stem}.png'))
  return len(portraits)


@exit_on_user_error
def main(argv: list[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  portraits = open_dataset(values.data_dir, values.genre).split(values.split)
  count = export(portraits, values.output, values.resolution, values.mask_preset, values.seed)
  print(f'{count} images with masks in {values.output}')


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', 'samples', 'Images; see configs/base.py.')
  flags.DEFINE_string('genre', '', "Genre to take, where there are any; '' for all.")
  flags.DEFINE_string('split', 'test', 'Part of the images; see configs/base.py.')
  flags.DEFINE_integer('resolution', 256, 'Side of the pictures in pixels.')
  flags.DEFINE_string('mask_preset', 'large', "'large' or 'small'.")
  flags.DEFINE_integer('seed', 0, 'Seed of the masks.')
  flags.DEFINE_string('output', None, 'Folder to write into.')
  command_line.run(main, ['output'], in_bucket=['data_dir'])
