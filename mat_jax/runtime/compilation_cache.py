"""JAX's persistent compilation cache, so that the next process does not compile again.

The key of an entry is made of the HLO, the compiler options, JAX's version and the kind of device
(of a CPU, every feature). The default folder has a size limit, which JAX enforces by removing the
least recently used entries. Where the user names a folder, the limit is that of JAX
(`JAX_COMPILATION_CACHE_MAX_SIZE`), as others may use that folder too.
"""

from collections.abc import Iterator
import contextlib
import os

from absl import logging
import jax
from jax._src import distributed
import platformdirs

_LIMIT = 4 * 2**30  # bytes of all entries; the training step at full size has 30 MB
_UNLIMITED = -1


def enable(folder: str | None = None, process_index: int = 0) -> None:
  """Turns JAX's compilation cache on; call before anything is compiled.

  Entries that cannot be read or written cost a warning and the time to compile.

  Args:
    folder: where to; None for JAX_COMPILATION_CACHE_DIR if that is set, else
      mat-jax/compilation_cache in the user's cache folder; '' for none. JAX runs what is in it,
      so nobody else should be able to write there.
    process_index: of this process; every one but the first gets a folder of its own in it.
  """
  if folder is None:
    # JAX's stubs do not know the fields of its config.
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if folder is None:
    folder = os.path.join(platformdirs.user_cache_dir('mat-jax'), 'compilation_cache')
    size = jax.config.jax_compilation_cache_max_size  # type: ignore[attr-defined]
    if size == _UNLIMITED:
      jax.config.update('jax_compilation_cache_max_size', _LIMIT)
  if folder and process_index:
    folder = os.path.join(folder, f'process_{process_index}')
  jax.config.update('jax_compilation_cache_dir', folder or None)
  if not folder or '://' in folder:
    return
  try:
    os.makedirs(folder, mode=0o700, exist_ok=True)
  except OSError as error:
    logging.warning('The compilation cache is off: %s (%s); --compilation_cache names another '
                    'folder.', folder, error.strerror or error)
    jax.config.update('jax_compilation_cache_dir', None)


@contextlib.contextmanager
def written_by_every_process() -> Iterator[None]:
  """Context in which every process, not only process 0, writes to its compilation cache.

  JAX lets only process 0 write, as all of them would write into the same folder; `enable` gives
  each its own. Otherwise process 0 would load from its cache in seconds and then wait in the first
  collective for others that compile for minutes. JAX has no setting for it.
  """
  state = distributed.global_state
  process_id, state.process_id = state.process_id, 0
  try:
    yield
  finally:
    state.process_id = process_id
