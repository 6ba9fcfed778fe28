"""What the page computes, without Gradio: files in, files out, all in the folder of one session."""

from collections.abc import Callable, Sequence
import dataclasses
import os
import re
import tempfile

import numpy as np
from PIL import Image

from mat_jax.app import masks, previews
from mat_jax.errors import UserError
from mat_jax.inference import image_files, sidecar
from mat_jax.inference.blending.blend import grow
from mat_jax.inference.image_files import Done, FileInpainter, FileOptions
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.matching import stem
from mat_jax.inference.options import InpaintOptions
from mat_jax.inference.planning.holes import Box
from mat_jax.inference.variants import Distance
from mat_jax.pictures import pictures
from mat_jax.pictures.pictures import Picture

_WHITE = 255


@dataclasses.dataclass(frozen=True)
class Original:
  """A picture that was loaded.

  Attributes:
    path: its file, which stays as it is.
    folder: for files about it.
    size: width and height.
    about: a clause for people: size, colours, bits.
    preview: a PNG file.
    preview_size: width and height.
  """

  path: str
  folder: str
  size: tuple[int, int]
  about: str
  preview: str
  preview_size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Marks:
  """What says where the hole is.

  Attributes:
    layers: what was drawn on the preview, see `masks.touched`.
    file: of a mask, or None.
    meaning: what is hole in it: 'auto', 'white' or 'black'.
    grow: by how many pixels of the picture all of it is grown.
  """

  layers: Sequence[np.ndarray] = ()
  file: str | None = None
  meaning: str = 'auto'
  grow: int = 0


@dataclasses.dataclass(frozen=True)
class Views:
  """PNG files to look at: of the whole picture, and of the part around its holes or None."""

  whole: str
  detail: str | None


@dataclasses.dataclass(frozen=True)
class Result:
  """A completion in full size, its JSON file, and previews."""

  path: str
  record: str
  seed: int
  views: Views


@dataclasses.dataclass(frozen=True)
class Results:
  """The completions of a picture.

  Attributes:
    results: that which is closest to the others is the first.
    before: views of the original.
    disagreement: a PNG file, or None.
    notices: sentences.
  """

  results: tuple[Result, ...]
  before: Views
  disagreement: str | None
  notices: tuple[str, ...]


def load(path: str, folder: str, max_pixels: int = pictures.MAX_PIXELS,
         max_side: int = previews.MAX_SIDE) -> Original:
  """Reads a picture file and makes its preview.

  Args:
    path: the file.
    folder: in which a folder for its previews, masks and results is made.
    max_pixels: limit of width x height.
    max_side: limit of the preview's longer side.

  Raises:
    UserError: it cannot be read.
  """
  picture = pictures.read_picture(path, max_pixels)
  own = tempfile.mkdtemp(dir=folder)
  image = previews.preview(picture.pixels, max_side)
  return Original(path, own, picture.size, _about(picture),
                  previews.save(os.path.join(own, 'preview.png'), image, picture), image.size)


def _about(picture: Picture) -> str:
  width, height = picture.size
  colours = 'grey' if picture.is_grey else 'RGB'
  alpha = ' with transparency' if picture.has_alpha else ''
  return f'{width} × {height} pixels, {picture.format}, {colours}{alpha}, {picture.bits} bits'


def hole_of(original: Original, marks: Marks, files: FileOptions,
            say: Callable[[str], None] = lambda sentence: None) -> np.ndarray:
  """The hole in pixels of the picture, bool [H, W].

  Args:
    original: the picture.
    marks: where it is.
    files: the limit of pixels.
    say: gets a sentence about the mask file.

  Raises:
    UserError: the mask file cannot be read or has another size, or nothing is marked.
  """
  drawn = masks.touched(marks.layers, original.preview_size)
  hole = masks.scale_back(drawn, original.size)
  if marks.file is not None:
    image_files.check_sizes(original.path, marks.file)
    hole |= image_files.read_hole(
        marks.file, dataclasses.replace(files, hole=marks.meaning), say)
  if not hole.any():
    raise UserError('nothing is marked; draw on the picture, or load a mask')
  return grow(hole, marks.grow) if marks.grow else hole


def save_mask(original: Original, hole: np.ndarray) -> str:
  """Writes a hole as a mask file in which it is white, as most tools have it; returns its path."""
  path = os.path.join(tempfile.mkdtemp(dir=original.folder), f'{stem(original.path)}_mask.png')
  pictures.write_picture(path, Picture(hole[..., None].astype(np.uint8) * _WHITE))
  return path


def show_hole(original: Original, hole: np.ndarray) -> Image.Image:
  """The preview with the hole in a signal colour."""
  with Image.open(original.preview) as preview:
    return previews.tinted(preview, masks.shrink(hole, original.preview_size))


def fill(inpainter: Inpainter, distance: Distance, original: Original, marks: Marks,
         options: InpaintOptions, files: FileOptions,
         on_window: Callable[[int], None] = lambda total: None) -> Results:
  """Completes a picture as `mat-jax inpaint` does.

  Args:
    inpainter: the model.
    distance: between completions.
    original: the picture.
    marks: its hole.
    options: of the completions.
    files: the limit of pixels.
    on_window: called with their total for every window that is filled.

  Raises:
    UserError: as of `hole_of`, and of `Inpainter.complete`.
  """
  said: list[str] = []
  hole = hole_of(original, marks, files, said.append)
  mask = save_mask(original, hole)
  files = dataclasses.replace(files, hole='white', disagreement=True)
  folder = os.path.join(os.path.dirname(mask), 'results')
  task, = image_files.tasks_of([(original.path, mask)], folder, options, files)
  worker = FileInpainter(inpainter, options, files, lambda sentence: None, distance)
  done = worker.complete(task, on_window)
  results, before = _views(task.results, done, hole)
  first = done.best or 0
  return Results((results[first], *results[:first], *results[first + 1:]), before,
                 done.disagreement, (*said, *done.found.plan.notices))


def _views(paths: Sequence[str], done: Done, hole: np.ndarray) -> tuple[list[Result], Views]:
  """Previews of all completions and of the original, beside the results."""
  box, picture = previews.detail_box(hole), done.picture
  folder = tempfile.mkdtemp(dir=os.path.dirname(paths[0]))
  before = _view(picture, box, os.path.join(folder, 'before'))
  results = []
  for path, variant, canvas in zip(paths, done.found.variants, done.found.canvases, strict=True):
    completed = picture.with_pixels(canvas.picture())
    results.append(Result(path, sidecar.path_of(path), variant.seed,
                          _view(completed, box, os.path.join(folder, stem(path)))))
  return results, before


def _view(picture: Picture, box: Box | None, start: str) -> Views:
  whole = previews.save(f'{start}_view.png', previews.preview(picture.pixels), picture)
  if box is None:
    return Views(whole, None)
  part = picture.pixels[box.top:box.bottom, box.left:box.right]
  return Views(whole, previews.save(f'{start}_detail.png', previews.preview(part), picture))


def without_folders(sentence: str, root: str) -> str:
  """A sentence in which files below `root` are called by their names alone."""
  return re.sub(re.escape(root) + r'[/\\]+(?:\w+[/\\]+)*', '', sentence)
