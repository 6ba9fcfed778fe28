"""Lists the files in a folder of images."""

import os
import pathlib

from mat_jax.errors import UserError
from mat_jax.runtime import images


def find_images(folder: str) -> list[str]:
  """Finds the image files of a folder and the folders inside it.

  Args:
    folder: a folder; for what in it is left out see `list_files`.

  Returns:
    Paths, sorted as their relative POSIX paths are.

  Raises:
    UserError: the folder is missing, is a file or holds no images.
  """
  root = pathlib.Path(folder).expanduser()
  if not root.is_dir():
    problem = 'is a file' if root.exists() else 'does not exist'
    raise UserError(f'the folder {folder!r} {problem}; give an existing folder of images')
  names = [name for name in list_files(root)[0] if images.has_image_suffix(name)]
  if not names:
    raise UserError(f'the folder {folder!r} holds no images; put .jpg, .png, .webp or other image '
                    'files there')
  return [str(root / name) for name in names]


def list_files(root: pathlib.Path) -> tuple[list[str], list[str]]:
  """Lists a folder recursively.

  Hidden files and folders (`.ipynb_checkpoints`, the `._*` files of macOS) are left
  out, and symbolic links to folders are not followed.

  Args:
    root: a folder.

  Returns:
    POSIX paths relative to the folder, sorted, and of the links among them those that
    lead out of it and are left out.
  """
  inside: list[str] = []
  outside: list[str] = []
  real_root = os.path.realpath(root)
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = [name for name in subfolders if not name.startswith('.')]
    for name in names:
      if name.startswith('.'):
        continue
      path = os.path.join(folder, name)
      leaves = os.path.islink(path) and not _is_inside(path, real_root)
      (outside if leaves else inside).append(pathlib.Path(path).relative_to(root).as_posix())
  return sorted(inside), sorted(outside)


def _is_inside(path: str, real_root: str) -> bool:
  return os.path.realpath(path).startswith(os.path.join(real_root, ''))
