"""Pairs folders of results with a folder of real images, by name, and reads them.

A result is named as its real image, whatever the endings, or is one of several that are
named NAME_0, NAME_1 and so on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
import os
import pathlib
from typing import NamedTuple

import numpy as np

from mat_jax.errors import UserError
from mat_jax.runtime import images, mask_values
from mat_jax.runtime.folders import find_images

_LISTED = 3  # names in a message


class Example(NamedTuple):
  """A real image and a result of it from each folder of results.

  Attributes:
    image: position of the image in `Comparison.names`.
    number: of the result among those of the image, from 0.
    real: file.
    results: files, one for each folder of results.
    mask: file, None without masks.
  """

  image: int
  number: int
  real: str
  results: tuple[str, ...]
  mask: str | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Real images and their results.

  Attributes:
    names: of the real images: relative paths without ending.
    real: their files.
    examples: all results, those of an image next to each other.
  """

  names: tuple[str, ...]
  real: tuple[str, ...]
  examples: tuple[Example, ...]


class Loaded(NamedTuple):
  """The pixels of an example.

  Attributes:
    real: uint8 [H, W, 3].
    results: uint8 [H, W, 3], one for each folder of results.
    keep: bool [H, W, 1], False in the hole; None without masks.
    grey: see `mat_jax.runtime.mask_values.Mask`; 0 without masks.
  """

  real: np.ndarray
  results: tuple[np.ndarray, ...]
  keep: np.ndarray | None
  grey: int = 0


class Metadata(NamedTuple):
  """Metadata of an example.

  Attributes:
    shape: height and width.
    hole_ratio: share of the image that is hole, NaN without masks.
    kept_difference: mean |real - result| over the kept pixels, in levels of 0 to 255, for
      each folder of results; empty without masks.
    hole_difference: likewise over the hole.
    grey: pixels of the mask that are neither black nor white.
  """

  shape: tuple[int, int]
  hole_ratio: float
  kept_difference: tuple[float, ...]
  hole_difference: tuple[float, ...]
  grey: int = 0


def pair(real: str, results: Sequence[str], masks: str | None = None) -> Comparison:
  """Finds the images of all folders and matches them by name.

  Args:
    real: folder of real images, searched recursively.
    results: folders of results of the same names; several results of an image are NAME_0,
      NAME_1 and so on, or NAME_seed7 as `mat-jax inpaint` names them, the same in all folders if there are several.
    masks: folder of masks, white where pixels were kept. A mask is named as its result, or as
      the image; or it is the image's only NAME_0 and belongs to its only result; or it is
      the only mask of all.

  Returns:
    The files, unread.

  Raises:
    UserError: a folder that is missing or empty, names that do not match, results without
      a mask.
  """
  real_files = _files_by_name(real)
  first, *others = (_files_by_name(folder) for folder in results)
  own = _match(real_files, first)
  matched = {name for names in own.values() for name in names}
  _check_names(real, [name for name in first if name not in matched],
               results[0], [name for name, of_image in own.items() if not of_image])
  matches = [own, *(_match(real_files, files) for files in others)]
  for folder, files, match in zip(results[1:], others, matches[1:], strict=True):
    # The only results of an image belong together, NAME_seed7 and NAME.
    if any(match[name] != of_image and (len(match[name]), len(of_image)) != (1, 1)
           for name, of_image in own.items()):
      _check_names(results[0], [name for name in files if name not in first],
                   folder, [name for name in first if name not in files])
  chosen = _choose_masks(masks, own) if masks else {}
  examples = [
      Example(image, number, real_files[name],
              tuple(files[match[name][number]]
                    for files, match in zip((first, *others), matches, strict=True)),
              chosen.get(result))
      for image, (name, of_image) in enumerate(own.items())
      for number, result in enumerate(of_image)]
  return Comparison(tuple(real_files), tuple(real_files.values()), tuple(examples))


def load(example: Example) -> Loaded:
  """Reads an example; images as `images.load_image`, masks as `mask_values.load_mask` does.

  Raises:
    UserError: a file that cannot be read, or files of different size.
  """
  real = images.load_image(example.real)
  results = tuple(images.load_image(path) for path in example.results)
  keep, grey = (None, 0) if example.mask is None else mask_values.load_mask(example.mask)
  for path, array in zip((*example.results, example.mask), (*results, keep), strict=True):
    if array is not None and array.shape[:2] != real.shape[:2]:
      raise UserError(f'{example.real!r} has {_size(real)} pixels and {path!r} has {_size(array)}; '
                      'only images of one size can be compared')
  return Loaded(real, results, keep, grey)


def inspect(example: Example) -> Metadata:
  """Reads an example and compares it without a network; raises as `load` does."""
  loaded = load(example)
  shape = loaded.real.shape[:2]
  if loaded.keep is None:
    return Metadata(shape, math.nan, (), ())
  keep = loaded.keep[..., 0]
  differences = [np.abs(loaded.real.astype(np.int16) - result).mean(-1)
                 for result in loaded.results]
  return Metadata(shape, float(1 - keep.mean()), tuple(_mean(x[keep]) for x in differences),
               tuple(_mean(x[~keep]) for x in differences), loaded.grey)


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if values.size else 0.0


def read_shape(path: str) -> tuple[int, int]:
  """Height and width of an image, upright; raises as `images.load_image` does."""
  return images.load_image(path).shape[:2]


def batches_by_shape(shapes: Sequence[tuple[int, int]], batch_size: int) -> list[np.ndarray]:
  """Cuts positions into batches of images of one shape.

  Args:
    shapes: of all images.
    batch_size: the most images of a batch.

  Returns:
    Positions, int arrays that are equally long for all images of a shape, lest every length
    is compiled for: the last batch repeats its last position.
  """
  groups: dict[tuple[int, int], list[int]] = {}
  for position, shape in enumerate(shapes):
    groups.setdefault(shape, []).append(position)
  batches = []
  for group in groups.values():
    size = min(batch_size, len(group))
    group += group[-1:] * (-len(group) % size)
    batches += list(np.array(group).reshape(-1, size))
  return batches


def _size(array: np.ndarray) -> str:
  return f'{array.shape[1]} x {array.shape[0]}'


def _files_by_name(folder: str) -> dict[str, str]:
  """The images of a folder: relative POSIX path without ending -> file."""
  root = pathlib.Path(folder).expanduser()
  files: dict[str, str] = {}
  for file in find_images(folder):
    name = os.path.splitext(pathlib.Path(file).relative_to(root).as_posix())[0]
    if name in files:
      raise UserError(f'{files[name]!r} and {file!r} differ in their endings alone; remove one of '
                      'them')
    files[name] = file
  return files


def _match(wanted: Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
  """Gives every wanted name the names that equal it or add a number, in their order."""
  own: dict[str, list[tuple[int, str]]] = {name: [] for name in wanted}
  for name in names:
    stem, number = _split_number(name)
    if name in own:
      own[name].append((-1, name))
    elif stem in own:
      own[stem].append((number, name))
  return {name: [match for _, match in sorted(matches)] for name, matches in own.items()}


def _split_number(name: str) -> tuple[str, int]:
  """'a_12' or 'a_seed12' -> 'a', 12; names without a number -> '', -1."""
  stem, _, number = name.rpartition('_')
  number = number.removeprefix('seed')
  return (stem, int(number)) if number.isdecimal() else ('', -1)


def _check_names(first: str, first_lacks: Sequence[str], second: str,
                 second_lacks: Sequence[str]) -> None:
  """Raises a UserError that lists names which one of two folders lacks."""
  parts = [f'{folder!r} lacks: {_listed(names)}'
           for folder, names in ((first, first_lacks), (second, second_lacks)) if names]
  if parts:
    raise UserError(f"{'; '.join(parts)}; both folders need the same names, or NAME_0, NAME_1 and "
                    'so on for several results of an image')


def _listed(names: Sequence[str]) -> str:
  more = f' (and {len(names) - _LISTED} more)' if len(names) > _LISTED else ''
  return ', '.join(names[:_LISTED]) + more


def _choose_masks(folder: str, own: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """Returns the mask file of every result, given the results of every image."""
  files = _files_by_name(folder)
  if len(files) == 1:
    (only,) = files.values()
    return {result: only for of_image in own.values() for result in of_image}
  # The masks may lie in one folder though the images do not, as `mask_files` has it.
  bases = Counter(map(os.path.basename, files))
  named = {os.path.basename(name): file for name, file in files.items()
           if bases[os.path.basename(name)] == 1} | files
  numbered: dict[str, list[str]] = {}
  for name, file in named.items():
    numbered.setdefault(_split_number(name)[0], []).append(file)

  def find(image: str, result: str) -> str | None:
    for name in (result, os.path.basename(result), image, os.path.basename(image)):
      if name in named:
        return named[name]
    of_image = numbered.get(image) or numbered.get(os.path.basename(image), [])
    return of_image[0] if len(of_image) == len(own[image]) == 1 else None

  found = {result: find(image, result) for image, of_image in own.items() for result in of_image}
  if missing := [result for result, file in found.items() if file is None]:
    raise UserError(f'{folder!r} lacks masks for: {_listed(missing)}; name masks as the results '
                    'that they belong to, or as the images')
  return {result: file for result, file in found.items() if file is not None}
