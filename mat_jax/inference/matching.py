"""Image files and their masks: single files, folders and globs, matched by stem."""

from collections.abc import Sequence
import glob
import os

from mat_jax.errors import UserError
from mat_jax.runtime.folders import find_images


def match_files(images: str | Sequence[str],
                masks: str | Sequence[str] | None) -> list[tuple[str, str | None]]:
  """Pairs of image and mask files.

  Args:
    images: a file, a folder, or a pattern such as 'scans/*.tif'; or several of them.
    masks: likewise; a single file serves every image, else there is one of the same stem for
      every image. None if the images say by themselves what is hole.

  Returns:
    (image, mask) paths, sorted by image.

  Raises:
    UserError: something is missing or ambiguous.
  """
  image_files = _list_files(images, 'images')
  _check_stems(image_files)
  if masks is None:
    return [(image, None) for image in image_files]
  mask_files = _list_files(masks, 'masks')
  if len(mask_files) == 1 and _is_file(masks):
    return [(image, mask_files[0]) for image in image_files]
  by_stem = {stem(path): path for path in mask_files}
  for image in image_files:
    if stem(image) not in by_stem:
      raise UserError(f'there is no mask for {image} in {masks}; add {stem(image)}.png there')
  return [(image, by_stem[stem(image)]) for image in image_files]


def stem(path: str) -> str:
  """A file's name without its suffix."""
  return os.path.splitext(os.path.basename(path))[0]


def _is_file(paths: str | Sequence[str]) -> bool:
  return os.path.isfile(paths if isinstance(paths, str) else paths[0])


def _list_files(paths: str | Sequence[str], what: str) -> list[str]:
  found: list[str] = []
  for path in [paths] if isinstance(paths, str) else paths:
    if os.path.isfile(path):
      found.append(path)
    elif glob.has_magic(path) and not os.path.isdir(path):
      matched = sorted(name for name in glob.glob(path) if os.path.isfile(name))
      if not matched:
        raise UserError(f'no file matches {path}; give {what} as files, folders or patterns')
      found += matched
    elif not os.path.exists(path):
      raise UserError(f'{path} does not exist; give {what} as files, folders or patterns')
    else:
      found += find_images(path)
  return sorted(found)


def _check_stems(files: list[str]) -> None:
  """Results are named by stem, so two images must not share one."""
  seen: dict[str, str] = {}
  for file in files:
    other = seen.setdefault(stem(file), file)
    if other != file:
      raise UserError(f'the results of {other} and {file} would have the same names; rename one')
