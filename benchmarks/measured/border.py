"""Measures whether the borders of filled holes show, with and without what is done against it.

  python -m input_pipeline.export --data_dir=samples --split=validation+test --resolution=384 \\
      --output=held_out
  python -m benchmarks.measured.border --images=held_out/images --masks=held_out/masks

The ratio is the mean difference of neighbouring pixels across the border of the hole over that of
neighbours on one side of it, at most 8 pixels away (`blend.border_gradient`): larger than 1 where a
border shows. It is measured for the network's result as it is, with its colours fitted to a
ring of known pixels (`ring`), with grain too, and for the original. The last line is JSON: the
mean ratio of each over the pictures, with the standard error. Lower is better.
"""

from collections.abc import Iterator
import glob
import json
import os

from absl import flags
import numpy as np
from PIL import Image

from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.inference.blending.blend import border_gradient
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.options import InpaintOptions
from mat_jax.runtime import command_line, image_grid

_WAYS = {'as it is': InpaintOptions(ring=0, grain=False), 'ring': InpaintOptions(grain=False),
         'ring and grain': InpaintOptions()}

# Of this command alone.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
flags.DEFINE_string('model', 'small', 'As of `mat-jax inpaint`.', flag_values=_FLAGS)
flags.DEFINE_string('images', None, 'Folder of PNG files.', flag_values=_FLAGS)
flags.DEFINE_string('masks', None, 'Folder of masks of the same names, black is hole.',
                    flag_values=_FLAGS)
flags.DEFINE_string('figure', '', 'PNG file to write: masked, as it is, with ring and grain, '
                    'original.', flag_values=_FLAGS)
flags.DEFINE_integer('shown', 4, 'Pictures of the figure.', flag_values=_FLAGS)


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


def ratios(inpainter: Inpainter, image: np.ndarray,
           hole: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
  """The ratio of each way and of the original, and their pictures, uint8 [H, W, 3]."""
  pictures = {name: inpainter.inpaint(image, ~hole, options=options)[0]
              for name, options in _WAYS.items()} | {'original': image}
  found = {}
  for name, picture in pictures.items():
    across, inside = border_gradient(picture, hole)
    found[name] = across / inside
  return found, pictures


def figure(rows: list[list[np.ndarray]]) -> np.ndarray:
  """Rows of pictures, each fitted into 256 px with their proportions; uint8."""
  columns = [np.stack([_fitted(row[i]) for row in rows]) for i in range(len(rows[0]))]
  return image_grid.grid(columns)


def _fitted(picture: np.ndarray, side: int = 256) -> np.ndarray:
  shown = Image.new('RGB', (side, side), 'white')
  small = Image.fromarray(picture)
  small.thumbnail((side, side), Image.Resampling.LANCZOS)
  shown.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
  return np.asarray(shown)


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  inpainter = Inpainter.from_checkpoint(_FLAGS.model)
  found: list[dict[str, float]] = []
  rows: list[list[np.ndarray]] = []
  for name, image, hole in read_pairs(_FLAGS.images, _FLAGS.masks):
    try:
      values, pictures = ratios(inpainter, image, hole)
    except ValueError:
      print(name, 'has no border')
      continue
    print(name, ' '.join(f'{way} {value:.2f}' for way, value in values.items()), flush=True)
    found.append(values)
    if len(rows) < _FLAGS.shown:
      masked = np.where(hole[..., None], np.uint8(128), image)
      rows.append([masked, pictures['as it is'], pictures['ring and grain'], image])
  if not found:
    raise UserError('no picture has a hole with a border')
  if _FLAGS.figure:
    image_grid.write_png(_FLAGS.figure, figure(rows))
  table = {way: np.array([values[way] for values in found]) for way in found[0]}
  print(json.dumps({'pictures': len(found), **{
      way: [round(float(x.mean()), 3), round(float(x.std() / len(x)**0.5), 3)]
      for way, x in table.items()}}))


if __name__ == '__main__':
  command_line.run(main, ['images', 'masks'])
