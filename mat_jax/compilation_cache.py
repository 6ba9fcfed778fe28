"""Compiled programs on disk, so that the next process does not compile them again.

JAX keeps them by a key of the program, its options, JAX's version and the kind of device (of
a CPU, every feature), and of several processes only the first one writes.
"""

import os
import pathlib

from absl import logging
import jax
import pooch

_LIMIT = 4 * 2**30  # bytes of all programs; the training step at full size has 30 MB


def enable(folder: str | None = None) -> None:
  """Lets JAX keep compiled programs in a folder; call before anything is compiled.

  What cannot be read or written there is compiled as without a cache, with a warning.

  Args:
    folder: where to; None for JAX_COMPILATION_CACHE_DIR if that is set, else mat-jax/programs
      in the user's cache folder; '' for none. JAX runs what is in it, so nobody else should be
      able to write there.
  """
  if folder is None:
    folder = jax.config.jax_compilation_cache_dir
  if folder is None:
    folder = os.path.join(os.fspath(pooch.os_cache('mat-jax')), 'programs')
  jax.config.update('jax_compilation_cache_dir', folder or None)
  if not folder or '://' in folder:
    return
  try:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    remove_oldest(folder, _LIMIT)
  except OSError as error:
    logging.warning('Compiled programs are not kept: %s (%s); --compilation_cache names another '
                    'folder.', folder, error.strerror or error)
    jax.config.update('jax_compilation_cache_dir', None)


def remove_oldest(folder: str, limit: int) -> None:
  """Removes the files that were used longest ago until the rest has at most `limit` bytes."""
  # Reading sets the time of access only once a day, on most disks.
  used = [(max(path.stat().st_atime, path.stat().st_mtime), path.stat().st_size, path)
          for path in pathlib.Path(folder).iterdir() if path.is_file()]
  total = 0
  for _, size, path in sorted(used, reverse=True):
    total += size
    if total > limit:
      path.unlink(missing_ok=True)
