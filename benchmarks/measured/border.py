"""Measures whether the borders of filled holes show, with and without what is done against it.

  python -m input_pipeline.export --data_dir=samples --split=validation+test --resolution=384 \\
      --output=held_out
  python -m benchmarks.measured.border --images=held_out/images --masks=held_out/masks \\
      --figure=border.png --shown=brewster,john-paul-jones --crop=128

The ratio is the mean difference of neighbouring pixels across the border of the hole over that of
neighbours on one side of it, at most 8 pixels away (`blend.border_gradient`): larger than 1 where a
border shows. It is measured for the network's result as it is, with its colours fitted to the
kept pixels (`seamless`), with grain too, with texture where it was enlarged, and for the original,
which a perfect fill would equal.
LPIPS (alex) is the distance from the original. The last line is JSON: of each over the
pictures, the mean and its standard error, also of the change of LPIPS from the result as it is.
"""

from collections.abc import Iterator
import glob
import json
import os
from typing import NamedTuple

from absl import flags
import numpy as np
from PIL import Image
from scipy import ndimage

from eval import metrics
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.inference.blending.blend import border_gradient
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.options import InpaintOptions
from mat_jax.runtime import command_line, image_grid

_WAYS = {'as it is': InpaintOptions(texture=False, seamless=False, grain=False),
         'seamless': InpaintOptions(texture=False, grain=False),
         'seamless and grain': InpaintOptions(texture=False), 'and texture': InpaintOptions()}
_SIDE = 256  # of a picture in the figure

# Of this command alone.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
flags.DEFINE_string('model', 'small', 'As of `mat-jax inpaint`.', flag_values=_FLAGS)
flags.DEFINE_string('images', None, 'Folder of PNG files.', flag_values=_FLAGS)
flags.DEFINE_string('masks', None, 'Folder of masks of the same names, black is hole.',
                    flag_values=_FLAGS)
flags.DEFINE_string('figure', '', 'PNG file to write: masked, as it is, with all of it, '
                    'original.', flag_values=_FLAGS)
flags.DEFINE_list('shown', [], 'Names of the pictures of the figure, without .png; all by default.',
                  flag_values=_FLAGS)
flags.DEFINE_integer('crop', 0, 'Side of the square of every picture that the figure shows, where '
                     'most of the border is; 0 for the whole.', flag_values=_FLAGS)


class Measured(NamedTuple):
  """What is measured of a picture.

  Attributes:
    ratio: of the gradient across the border to that beside it.
    lpips: distance from the original.
  """

  ratio: float
  lpips: float


def read_pairs(images: str, masks: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Names, pictures, uint8 [H, W, 3], and holes, bool [H, W]; UserError if there are none."""
  paths = sorted(glob.glob(os.path.join(images, '*.png')))
  if not paths:
    raise UserError(f'{images} has no PNG files; see the first lines of this command for how to '
                    'make some')
  for path in paths:
    mask = os.path.join(masks, os.path.basename(path))
    if not os.path.isfile(mask):
      raise UserError(f'there is no mask {mask}')
    hole = np.asarray(Image.open(mask).convert('L')) < 255
    yield os.path.basename(path), np.asarray(Image.open(path).convert('RGB')), hole


def measure(inpainter: Inpainter, image: np.ndarray,
            hole: np.ndarray) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
  """What is measured of each way and of the original, and their pictures, uint8 [H, W, 3]."""
  pictures = {name: inpainter.inpaint(image, ~hole, options=options)[0]
              for name, options in _WAYS.items()} | {'original': image}
  found = {}
  for name, picture in pictures.items():
    across, inside = border_gradient(picture, hole)
    distance = metrics.lpips(picture[None], image[None], net='alex')
    found[name] = Measured(across / inside, float(np.asarray(distance).item()))
  return found, pictures


def summary(found: list[dict[str, Measured]]) -> dict[str, dict[str, list[float]]]:
  """Mean and standard error over the pictures of what is measured, by way."""
  first = next(iter(_WAYS))
  table = {}
  for way in found[0]:
    columns = {name: np.array([getattr(values[way], name) for values in found])
               for name in Measured._fields}
    columns['lpips_change'] = columns['lpips'] - [values[first].lpips for values in found]
    table[way] = {name: [round(float(x.mean()), 4), round(float(x.std() / len(x)**0.5), 4)]
                  for name, x in columns.items()}
  return table


def figure(rows: list[list[np.ndarray]]) -> np.ndarray:
  """Rows of pictures, each fitted into 256 px with their proportions; uint8."""
  columns = [np.stack([_fitted(row[i]) for row in rows]) for i in range(len(rows[0]))]
  return image_grid.grid(columns)


def crop_with_most_border(hole: np.ndarray, side: int) -> tuple[slice, slice]:
  """Rows and columns of the square with most border pixels: a choice that knows no result."""
  border = ndimage.binary_dilation(hole) & ~hole
  sums = np.pad(border.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
  side = min(side, *hole.shape)
  counts = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
  row, column = (int(i) for i in np.unravel_index(np.argmax(counts), counts.shape))
  return slice(row, row + side), slice(column, column + side)


def _fitted(picture: np.ndarray, side: int = _SIDE) -> np.ndarray:
  shown = Image.new('RGB', (side, side), 'white')
  small = Image.fromarray(image_grid.enlarge(picture, side // max(picture.shape[:2])))
  small.thumbnail((side, side), Image.Resampling.LANCZOS)
  shown.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
  return np.asarray(shown)


def _row(pictures: dict[str, np.ndarray], hole: np.ndarray, crop: int) -> list[np.ndarray]:
  """What the figure shows of a picture."""
  masked = np.where(hole[..., None], np.uint8(128), pictures['original'])
  part = crop_with_most_border(hole, crop) if crop else (slice(None), slice(None))
  return [picture[part] for picture in (
      masked, pictures['as it is'], pictures['and texture'], pictures['original'])]


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  for name in _FLAGS.shown:
    if not os.path.isfile(os.path.join(_FLAGS.images, f'{name}.png')):
      raise UserError(f'--shown: {_FLAGS.images} has no {name}.png')
  inpainter = Inpainter.from_checkpoint(_FLAGS.model)
  found: list[dict[str, Measured]] = []
  rows: list[list[np.ndarray]] = []
  for name, image, hole in read_pairs(_FLAGS.images, _FLAGS.masks):
    try:
      values, pictures = measure(inpainter, image, hole)
    except ValueError:
      print(name, 'has no border')
      continue
    print(name, ' '.join(f'{way} {x.ratio:.2f} (LPIPS {x.lpips:.4f})'
                         for way, x in values.items()), flush=True)
    found.append(values)
    if _FLAGS.figure and (not _FLAGS.shown or os.path.splitext(name)[0] in _FLAGS.shown):
      rows.append(_row(pictures, hole, _FLAGS.crop))
  if not found:
    raise UserError('no picture has a hole with a border')
  if _FLAGS.figure:
    image_grid.write_png(_FLAGS.figure, figure(rows))
  print(json.dumps({'pictures': len(found), **summary(found)}))


if __name__ == '__main__':
  command_line.run(main, ['images', 'masks'])
