"""Pictures of the report: which pairs are shown, with which scores."""

from collections.abc import Mapping, Sequence
import os
from typing import NamedTuple

from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from eval.metrics.names import METRICS
from eval.report.inputs import BASELINE, Content
from eval.report.page import DPI
from eval.results.picture_paths import mask_path, original_path, result_path
from eval.results.tables import number
from mat_jax.errors import UserError
from mat_jax.runtime import image_grid
from mat_jax.runtime.images import load_image
from mat_jax.runtime.mask_values import load_mask

COMPARISONS = 8
CASES = 4
# Printed below a picture, where there are such.
_SCORES = ('psnr', 'ssim', 'lpips_alex')
# Metrics that rank the cases: the first of them that was measured.
_RANKINGS = ('lpips_alex', 'psnr_hole', 'psnr')
_HOLE = np.uint8(128)
# Of the figures, in pixels: side of a picture, distance between them, room for text.
_SIDE, _GAP, _ABOVE, _BELOW = 384, 16, 52, 130


class Picture(NamedTuple):
  """A picture with what stands below it.

  Attributes:
    title: what it is.
    pixels: uint8 [H, W, 3]; None if it was not kept.
    scores: lines of text.
  """

  title: str
  pixels: np.ndarray | None
  scores: list[str]


class Row(NamedTuple):
  """The pictures of a pair.

  Attributes:
    image: name of the image.
    image_index: its number.
    heading_parts: metadata for the heading: mask, hole ratio, and why it was chosen.
    pictures: original, masked, perhaps of classical methods, perhaps of the baseline, and of what
      is evaluated.
  """

  image: str
  image_index: int
  heading_parts: list[str]
  pictures: list[Picture]


class Section(NamedTuple):
  """Pairs under a heading.

  Attributes:
    name: of its file.
    title: the heading.
    rows: the pairs.
  """

  name: str
  title: str
  rows: list[Row]


def kept(content: Content) -> np.ndarray:
  """Which pairs have pictures; bool [pairs]."""
  folder, table = content.ours.pictures, content.pairs
  found = [all(os.path.isfile(path) for path in _paths(folder, masks, image, mask))
           for masks, image, mask in zip(table.masks, table.image_index, table.mask, strict=True)]
  return np.array(found, bool)


def _paths(folder: str, masks: str, image: int, mask: int) -> tuple[str, str, str]:
  """Original, mask and result."""
  return (original_path(folder, image), mask_path(folder, masks, image, mask),
          result_path(folder, masks, image, mask))


def comparisons(content: Content, chosen: np.ndarray) -> list[Row]:
  """The first pairs of different images.

  Args:
    content: of the report.
    chosen: int [n], positions of the pairs to choose from.

  Raises:
    UserError: a picture cannot be read.
  """
  _, first = np.unique(content.pairs.image_index[chosen], return_index=True)
  return [_row(content, position, with_methods=True)
          for position in chosen[np.sort(first)][:COMPARISONS]]


def ranking(content: Content) -> str:
  """The metric that ranks the cases."""
  metrics = content.pairs.metrics[content.system]
  return next((name for name in _RANKINGS if name in metrics and np.isfinite(metrics[name]).any()),
              _RANKINGS[-1])


def cases(content: Content, chosen: np.ndarray) -> list[Section]:
  """Best and worst cases; with a baseline also the largest gains and losses against it.

  Args:
    content: of the report.
    chosen: int [n], positions of the pairs to choose from.

  Returns:
    Sections, some of them perhaps empty; no pair is among the best and the worst.

  Raises:
    UserError: a picture cannot be read.
  """
  name = ranking(content)
  sign = 1 if METRICS[name].higher_is_better else -1
  values = content.pairs.metrics[content.system].get(name, np.full(len(content.pairs), np.nan))
  order = _order(sign * values, chosen)
  best, worst = order[:min(CASES, -(-len(order) // 2))], order[::-1][:min(CASES, len(order) // 2)]
  found = [Section(kind, f'{kind.capitalize()} cases', [
      _row(content, position, quantity(name, values[position])) for position in positions])
           for kind, positions in (('best', best), ('worst', worst))]
  if content.theirs is None:
    return found
  with np.errstate(invalid='ignore'):  # infinite less infinite is undefined, and left out
    difference = values - content.pairs.metrics[BASELINE].get(name, np.nan)
  order = _order(sign * difference, chosen)
  gains = order[sign * difference[order] > 0][:CASES]
  losses = order[::-1][sign * difference[order[::-1]] < 0][:CASES]
  return found + [Section(kind, f'Largest {kind} against the baseline', [
      _row(content, position, f'{quantity(name, difference[position], True)} against the baseline')
      for position in positions]) for kind, positions in (('gains', gains), ('losses', losses))]


def _order(goodness: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """The chosen positions with a finite value, the largest first."""
  finite = chosen[np.isfinite(goodness[chosen])]
  return finite[np.argsort(-goodness[finite], kind='stable')]


def quantity(name: str, value: float, signed: bool = False) -> str:
  """A value with the name and the unit of its metric."""
  label, _, unit = METRICS[name].title.partition(', ')
  return f'{label} {number(value, METRICS[name].form, signed)} {unit}'.rstrip()


def _row(content: Content, position: int, *reasons: str, with_methods: bool = False) -> Row:
  table = content.pairs
  masks, index, mask = table.masks[position], table.image_index[position], table.mask[position]
  of_original, of_mask, of_result = _paths(content.ours.pictures, masks, index, mask)
  original = load_image(of_original)
  keep = _same_size(load_mask(of_mask).keep, original, of_mask)
  found = [Picture('original', original, []),
           Picture('masked', np.where(keep, original, _HOLE), [])]
  if with_methods:
    found += _of_methods(content, position, original)
  if content.theirs is not None:
    path = result_path(content.theirs.pictures, masks, content.their_image_index[position], mask)
    pixels = _same_size(load_image(path), original, path) if os.path.isfile(path) else None
    found.append(Picture(BASELINE, pixels, _scores(table.metrics[BASELINE], position)))
  result = _same_size(load_image(of_result), original, of_result)
  found.append(Picture(content.system, result, _scores(table.metrics[content.system], position)))
  heading_parts = [f'mask {mask}', f'hole {100 * table.hole_ratio[position]:.0f} %', *reasons]
  return Row(str(table.image[position]), int(index), heading_parts, found)


def _of_methods(content: Content, position: int, original: np.ndarray) -> list[Picture]:
  """The pictures of the classical methods."""
  table, pictures = content.pairs, []
  for name, metrics in table.metrics.items():
    # Names become parts of paths, which a table from elsewhere must not choose.
    if name in (content.system, BASELINE) or not name.isidentifier():
      continue
    path = result_path(content.ours.pictures, table.masks[position], table.image_index[position],
                       table.mask[position], name)
    if os.path.isfile(path):
      pixels = _same_size(load_image(path), original, path)
      pictures.append(Picture(name, pixels, _scores(metrics, position)))
  return pictures


def _scores(metrics: Mapping[str, np.ndarray], position: int) -> list[str]:
  return [quantity(name, metrics[name][position]).replace(' alex', '')
          for name in _SCORES if name in metrics]


def _same_size(picture: np.ndarray, original: np.ndarray, path: str) -> np.ndarray:
  if picture.shape[:2] != original.shape[:2]:
    (height, width), (wanted_height, wanted_width) = picture.shape[:2], original.shape[:2]
    raise UserError(f'{path} is {width} x {height} pixels and the original {wanted_width} x '
                    f'{wanted_height}; evaluate again')
  return picture


def draw(rows: Sequence[Row]) -> Figure:
  """The pictures of some pairs with their scores, as a figure.

  Args:
    rows: at least one.

  Returns:
    The figure, which names images by their number.
  """
  original = rows[0].pictures[0].pixels
  assert original is not None
  height, width = _resized(original).shape[:2]
  total_width = (width + _GAP) * len(rows[0].pictures) + _GAP
  total_height = (height + _ABOVE + _BELOW) * len(rows)
  # Without axes the pictures keep their pixels, and drawing takes a fraction of the time.
  figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
  for i, row in enumerate(rows):
    top = total_height - (height + _ABOVE + _BELOW) * i
    heading = ', '.join([f'image {row.image_index}', *row.heading_parts])
    figure.text(_GAP / total_width, (top - _GAP) / total_height, heading, va='top', fontsize=8)
    for j, picture in enumerate(row.pictures):
      left = _GAP + (width + _GAP) * j
      if picture.pixels is not None:
        figure.figimage(_resized(picture.pixels), left, top - _ABOVE - height)
      # Titles come from files: a dollar sign would begin a formula.
      figure.text(left / total_width, (top - _ABOVE - height - _GAP / 2) / total_height,
                  '\n'.join([picture.title, *picture.scores]), va='top', fontsize=7,
                  parse_math=False)
  return figure


def _resized(pixels: np.ndarray) -> np.ndarray:
  """A picture of about the side of a figure's cells: pixels repeated, or shrunk."""
  side = max(pixels.shape[:2])
  if side <= _SIDE:
    return image_grid.enlarge(pixels, _SIDE // side)
  image = Image.fromarray(pixels)
  image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
  return np.asarray(image)
