"""Images on disk: finding, splitting, decoding and squaring them."""

import os
import pathlib
import random

import numpy as np
from PIL import Image, ImageOps

from mat_jax.errors import UserError

SAMPLES = 'samples'
SPLITS = ('train', 'validation', 'test')
CROPS = ('top', 'center', 'random')
MIN_SIDE = 8

_SAMPLES_DIR = pathlib.Path(__file__).parent / 'samples'
_SUFFIXES = frozenset({
    '.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.pgm', '.png', '.ppm',
    '.tga', '.tif', '.tiff', '.webp',
})


def find_images(data_dir: str) -> list[str]:
  """Finds the images in a folder and the folders inside it.

  Hidden files and folders (`.ipynb_checkpoints`, the `._*` files of macOS) are left
  out, and symbolic links to folders are not followed.

  Args:
    data_dir: a folder, or 'samples' for the portraits that come with the project
      (a folder of your own with that name: './samples').

  Returns:
    Paths of the image files, sorted by their POSIX path relative to the folder.

  Raises:
    UserError: the folder is not given, is missing, is a file or holds no images.
  """
  if not str(data_dir):
    raise UserError('data_dir is empty; set --config.data_dir to a folder of images')
  root = _SAMPLES_DIR if str(data_dir) == SAMPLES else pathlib.Path(data_dir).expanduser()
  if not root.exists():
    raise UserError(
        f'the image folder {str(data_dir)!r} does not exist; give an existing folder or '
        f'{SAMPLES!r}')
  if not root.is_dir():
    raise UserError(f'{str(data_dir)!r} is a file; give the folder that holds the images')
  files = []
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = [name for name in subfolders if not name.startswith('.')]
    files += [
        pathlib.Path(folder, name) for name in names
        if not name.startswith('.') and pathlib.PurePath(name).suffix.lower() in _SUFFIXES
    ]
  if not files:
    raise UserError(
        f'the folder {str(data_dir)!r} holds no images; put .jpg, .png, .webp or other image files '
        'there')
  return [str(path) for path in sorted(files, key=lambda path: path.relative_to(root).as_posix())]


def split(files: list[str], name: str, seed: int = 123) -> list[str]:
  """Returns a part of the images: 85 % train, 10 % validation, 5 % test.

  Which image is in which part depends on the seed and on the images' relative
  names alone, not on where their folder lies. With three images or more no part is
  empty.

  Args:
    files: paths as `find_images` returns them, all from one folder.
    name: 'train', 'validation', 'test', 'all' or several joined by '+'.
    seed: of the shuffle.

  Returns:
    The paths of the part, sorted.

  Raises:
    UserError: unknown name or a part without images.
  """
  names = name.split('+')
  for part in names:
    if part not in (*SPLITS, 'all'):
      raise UserError(
          f"unknown split {part!r}; use {', '.join(SPLITS)}, all or several joined by '+'")
  # Paths that begin alike sort as their ends do, so the root need not be known.
  ordered = sorted(files, key=lambda path: pathlib.PurePath(path).as_posix())
  shuffled = list(range(len(ordered)))
  random.Random(seed).shuffle(shuffled)
  # Integers: 0.85 * n rounds differently for some n.
  num_validation = max(1, len(ordered) // 10)
  num_train = min(len(ordered) * 85 // 100, len(ordered) - num_validation - 1)
  if len(ordered) < len(SPLITS):
    num_train, num_validation = len(ordered), 0
  end = num_train + num_validation
  positions = {
      'train': shuffled[:num_train],
      'validation': shuffled[num_train:end],
      'test': shuffled[end:],
      'all': shuffled,
  }
  selected = sorted(set().union(*(positions[part] for part in names)))
  if not selected:
    raise UserError(
        f'the split {name!r} of {len(ordered)} images is empty; give at least {len(SPLITS)} images')
  return [ordered[i] for i in selected]


def load_image(path: str) -> np.ndarray:
  """Decodes an image file, upright and in RGB.

  Grayscale, palette, CMYK and 16-bit images are converted, transparent ones laid on
  white; of an animation the first frame counts.

  Args:
    path: an image file that Pillow reads.

  Returns:
    uint8 [H, W, 3] in [0, 255].

  Raises:
    UserError: a missing, unreadable or truncated file, or a side below 8 pixels.
  """
  try:
    with Image.open(path) as image:
      rgb = _to_rgb(ImageOps.exif_transpose(image))
  # Pillow's decoders meet broken files with errors of many types.
  except Exception as error:
    raise UserError(
        f'the image {str(path)!r} cannot be read ({error}); repair or remove it') from error
  if min(rgb.size) < MIN_SIDE:
    raise UserError(
        f'the image {str(path)!r} is too small ({rgb.width} x {rgb.height} pixels); remove it or '
        f'give one with at least {MIN_SIDE} pixels a side')
  return np.asarray(rgb)


def _to_rgb(image: Image.Image) -> Image.Image:
  """Converts an image of any mode to RGB, on white where it is transparent."""
  if image.mode.startswith('I'):
    # Pillow would clip 16-bit values to 255 instead of scaling them.
    values = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255)
    image = Image.fromarray(np.rint(values).astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image.convert('RGB')


def square(
    image: np.ndarray,
    resolution: int,
    crop: str = 'top',
    rng: np.random.Generator | None = None,
) -> np.ndarray:
  """Cuts the largest square out of an image and resizes it, with antialiasing.

  Args:
    image: uint8 [H, W, 3].
    resolution: side of the result in pixels; smaller images are enlarged.
    crop: 'top' keeps the top of a portrait and the centre of a landscape format,
      'center' the centre, 'random' draws the place from `rng`.
    rng: for 'random' only.

  Returns:
    uint8 [resolution, resolution, 3].

  Raises:
    UserError: unknown crop.
  """
  check_crop(crop)
  height, width, _ = image.shape
  side = min(height, width)
  left, top = (width - side) // 2, (height - side) // 2
  if crop == 'top':
    top = 0
  elif crop == 'random':
    left = int(rng.integers(width - side, endpoint=True))
    top = int(rng.integers(height - side, endpoint=True))
  cut = Image.fromarray(image[top:top + side, left:left + side])
  # Lanczos widens its support when it shrinks, which is the antialiasing.
  return np.asarray(cut.resize((resolution, resolution), Image.Resampling.LANCZOS))


def check_crop(crop: str) -> None:
  """Raises a UserError if `square` does not know the crop."""
  if crop not in CROPS:
    raise UserError(f'unknown crop {crop!r}; choose one of {", ".join(CROPS)}')
