"""Inpainting of picture files: what the command lines share."""

from collections.abc import Callable, Sequence
import dataclasses
import os
from typing import Any, NamedTuple

from absl import logging
import numpy as np
from PIL import Image
import tqdm

from mat_jax.errors import UserError
from mat_jax.inference import mask_meaning, sidecar, variants
from mat_jax.inference.inpainter import Completions, Inpainter
from mat_jax.inference.matching import stem
from mat_jax.inference.options import InpaintOptions
from mat_jax.pictures import pictures
from mat_jax.pictures.pictures import Picture
from mat_jax.runtime import images
from mat_jax.runtime.storage import new_files

# Formats of results; what comes as JPEG becomes PNG, as JPEG would change kept pixels.
_SUFFIXES = {'TIFF': '.tif', 'WEBP': '.webp'}


@dataclasses.dataclass(frozen=True)
class FileOptions:
  """What only files need.

  Attributes:
    hole: what is hole in the mask files: 'black', 'white', 'auto' to guess; or 'alpha' for the
      pictures' own transparency, without mask files.
    overwrite: whether results replace files that exist.
    max_pixels: limit of a picture's width x height.
    disagreement: whether to write the map of differences between several completions.
  """

  hole: str = 'auto'
  overwrite: bool = False
  max_pixels: int = pictures.MAX_PIXELS
  disagreement: bool = False


class Task(NamedTuple):
  """A picture to complete.

  Attributes:
    image: file.
    mask: file, None if the picture says by itself what is hole.
    results: a file for every completion.
  """

  image: str
  mask: str | None
  results: tuple[str, ...]


class Done(NamedTuple):
  """What became of a task.

  Attributes:
    picture: the original.
    found: its completions, in the order of `Task.results`.
    best: the number of the one closest to the others; None if there is one alone, or no hole.
    disagreement: file of the map of differences, None without.
  """

  picture: Picture
  found: Completions
  best: int | None
  disagreement: str | None


def tasks_of(pairs: Sequence[tuple[str, str | None]], output: str, options: InpaintOptions,
             files: FileOptions) -> list[Task]:
  """Names the results, and checks from the headers of all files that they can be made.

  Args:
    pairs: image and mask files.
    output: a folder, or a file for the only completion of the only picture.
    options: of the completions.
    files: of the files.

  Returns:
    A task for every pair.

  Raises:
    UserError: an image and its mask have different sizes, a result exists or would be beside
      its picture, a header cannot be read.
  """
  mask_meaning.check(files.hole, 'hole')
  is_file = images.has_image_suffix(output) and not os.path.isdir(output)
  if is_file:
    pictures.written_format(output)  # an error for others
  seeds = options.all_seeds()
  if is_file and (len(pairs) > 1 or len(seeds) > 1):
    raise UserError(f'{output} is the name of one picture, but there are {len(pairs)} pictures '
                    f'with {len(seeds)} completions each; give a folder')
  tasks = []
  for image, mask in pairs:
    check_sizes(image, mask)
    suffix = _SUFFIXES.get(pictures.picture_format(image), '.png')
    names = ([output] if is_file else
             [os.path.join(output, f'{stem(image)}_seed{seed}{suffix}') for seed in seeds])
    task = Task(image, mask, tuple(names))
    _check_results(task, is_file, files)
    tasks.append(task)
  return tasks


def check_sizes(image: str, mask: str | None) -> None:
  """Raises UserError if the headers of an image and its mask tell different sizes."""
  sizes = [pictures.picture_size(path) for path in (image, mask or image)]
  if sizes[0] != sizes[1]:
    (width, height), (mask_width, mask_height) = sizes
    raise UserError(f'the mask {mask} is {mask_width} x {mask_height}, its image {image} is '
                    f'{width} x {height}; give a mask of the size of the image')


def _check_results(task: Task, is_file: bool, files: FileOptions) -> None:
  folder = os.path.dirname(os.path.abspath(task.image))
  written = [path for result in task.results for path in (result, sidecar.path_of(result))]
  if files.disagreement and len(task.results) > 1:
    written.append(_map_of(task))
  for result in task.results:
    if os.path.realpath(result) == os.path.realpath(task.image):
      raise UserError(f'{result} is the picture itself; choose another output')
    if not is_file and os.path.realpath(os.path.dirname(result)) == os.path.realpath(folder):
      raise UserError(f'the results of {task.image} would be among the pictures in {folder}; '
                      'choose another folder')
  for path in written:
    if os.path.lexists(path) and not files.overwrite:
      raise UserError(f'{path} exists; choose another output, another seed, or overwrite it '
                      '(--overwrite)')


def _map_of(task: Task) -> str:
  """The file of the map of differences of a task's completions."""
  return os.path.join(os.path.dirname(task.results[0]), f'{stem(task.image)}_disagreement.png')


class FileInpainter:
  """Completes picture files with one generator."""

  def __init__(self, inpainter: Inpainter, options: InpaintOptions, files: FileOptions,
               say: Callable[[str], None] = logging.info,
               distance: variants.Distance = variants.mean_difference):
    """Prepares for pictures with the same options.

    Args:
      inpainter: generator.
      options: of the completions.
      files: of the files.
      say: gets a sentence about each picture.
      distance: between completions, to name the one that is closest to the others.
    """
    self._inpainter, self._options, self._files = inpainter, options, files
    self._say, self._distance = say, distance
    self._model = {'model': os.path.basename(inpainter.checkpoint.path),
                   'digest': inpainter.digest}
    self._mask: tuple[str | None, np.ndarray] = (None, np.zeros(0))

  def run(self, tasks: Sequence[Task]) -> list[UserError]:
    """Completes pictures, with a progress bar.

    Returns:
      What is wrong with the pictures that are not done.
    """
    failures = []
    for task in tqdm.tqdm(tasks, unit='image', desc='inpainting',
                          disable=True if len(tasks) == 1 else None):
      try:
        self.complete(task)
      except UserError as error:
        if len(tasks) > 1:
          logging.error('%s', error)
        failures.append(error)
    return failures

  def complete(self, task: Task, on_window: Callable[[int], None] = lambda total: None) -> Done:
    """Completes one picture, and writes its results.

    Args:
      task: what to do.
      on_window: called with their total for every window that is filled.

    Raises:
      UserError: the files cannot be read or written, or a hole does not fit the options.
    """
    picture = pictures.read_picture(task.image, self._files.max_pixels)
    for path in task.results:  # before the work, which may take hours
      pictures.check_writable(path, picture, self._files.overwrite)
    hole = self._hole(task, picture)
    with tqdm.tqdm(unit='window', desc=stem(task.image), disable=None, leave=False) as progress:
      def count(total: int) -> None:
        progress.total = total
        progress.update()
        on_window(total)

      found = self._inpainter.complete(
          picture.pixels, hole, self._options, is_opaque=task.mask is None, on_window=count)
    for notice in found.plan.notices:
      self._say(f'{task.image}: {notice}.')
    self._write(task, picture, found)
    if len(found.variants) > 1 and found.plan.windows:
      return Done(picture, found, *self._compare(task, found))
    return Done(picture, found, None, None)

  def _hole(self, task: Task, picture: Picture) -> np.ndarray:
    """bool [H, W]."""
    if task.mask is None:
      return pictures.alpha_hole(picture)
    if self._mask[0] != task.mask:  # one mask may serve all pictures
      self._mask = task.mask, read_hole(task.mask, self._files, self._say)
    return self._mask[1]

  def _write(self, task: Task, picture: Picture, found: Completions) -> None:
    source = {'image': os.path.basename(task.image),
              'mask': task.mask and os.path.basename(task.mask), **self._model}
    for path, variant, canvas in zip(task.results, found.variants, found.canvases, strict=True):
      record = sidecar.describe(found, variant, self._options, source)
      result = picture.with_pixels(canvas.picture())
      pictures.write_picture(path, result, {sidecar.KEYWORD: sidecar.to_json(record)},
                             self._files.overwrite)
      sidecar.write(sidecar.path_of(path), record)

  def _compare(self, task: Task, found: Completions) -> tuple[int, str | None]:
    """Names the completion closest to the others, and writes their disagreement."""
    best = medoid(found, self._distance)
    self._say(f'{task.results[best]} is the closest to all of its completions.')
    if not self._files.disagreement:
      return best, None
    spread = variants.disagreement([canvas.picture() for canvas in found.canvases])
    write_map(_map_of(task), spread)
    return best, _map_of(task)


def read_hole(path: str, files: FileOptions, say: Callable[[str], None]) -> np.ndarray:
  """Reads a mask file.

  Args:
    path: the file.
    files: what is hole, and the limit of pixels.
    say: gets a sentence about how the mask was understood.

  Returns:
    bool [H, W], True in the hole.

  Raises:
    UserError: the file cannot be read.
  """
  mask = pictures.read_picture(path, files.max_pixels)
  found = mask_meaning.understand(mask, files.hole)
  say(f'{path}: {found.meaning.hole} is hole ({found.meaning.reason}).')
  if found.mask.grey:
    say(found.mask.notice(path))
  return ~found.mask.keep[..., 0]


def medoid(found: Completions, distance: variants.Distance) -> int:
  """The number of the completion closest to the others, around the largest hole."""
  window = max(found.plan.windows, key=lambda w: int(w.hole.pixels.sum()))
  views = [(pictures.to_rgb(canvas.read(window)) + 1) * 127.5 for canvas in found.canvases]
  side = min(window.side, window.resolution)
  return variants.medoid([np.asarray(Image.fromarray(view.round().astype(np.uint8)).resize(
      (side, side), Image.Resampling.BOX)) for view in views], distance)


def write_map(path: str, spread: np.ndarray) -> None:
  """Writes a map of `variants.disagreement` as a grey PNG file, white at its maximum."""
  scaled = np.rint(spread * (255 / max(float(spread.max()), 1e-6))).astype(np.uint8)
  with new_files.new_file(path) as file:
    Image.fromarray(scaled).save(file, format='PNG')


def describe_failures(failures: Sequence[UserError], count: int) -> UserError | None:
  """One error for all pictures that are not done, None if all are."""
  if not failures:
    return None
  if count == 1:
    return failures[0]
  more = f' (and {len(failures) - 1} more, see above)' if len(failures) > 1 else ''
  return UserError(f'{len(failures)} of {count} images are not done, the others are: '
                   f'{failures[0]}{more}')


def options_from(values: Any) -> tuple[InpaintOptions, FileOptions]:
  """The options among the attributes of parsed arguments, or of `config.inpaint`."""
  def taken(cls: type) -> dict[str, Any]:
    return {field.name: getattr(values, field.name) for field in dataclasses.fields(cls)
            if hasattr(values, field.name)}

  return InpaintOptions(**taken(InpaintOptions)), FileOptions(**taken(FileOptions))
