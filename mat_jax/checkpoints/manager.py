"""Writes the checkpoints of a run in the background, and resumes from them.

The state is the same on every process, so process 0 alone writes it: a write that fails
leaves nobody waiting. A step directory is filled under another name, flushed to the disk and
then renamed; only then older ones are removed. `mat_jax.checkpoints.reader` says what is in it,
`mat_jax.checkpoints.bucket_steps` what takes the place of renaming in a bucket.
"""

from collections.abc import Mapping
from concurrent import futures
import dataclasses
import math
import os
import shutil
import threading
from typing import Any

from absl import logging
import jax
import numpy as np

from mat_jax.checkpoints import bucket_steps, restore
from mat_jax.checkpoints.items import check_space, write_item, write_meta
from mat_jax.checkpoints.reader import FORMAT, State, items_of
from mat_jax.checkpoints.step_directories import FOLDER, best_step, is_complete, step_numbers
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, disk, new_files
from mat_jax.runtime.storage.disk import UnreachableError

# Name suffixes of incomplete saves, here and by Orbax's manager.
_PARTIAL = '.partial'
_ORBAX_PARTIAL = '.orbax-checkpoint-tmp'
# A step directory gets one of these names before it is removed: readers find all of it or
# nothing. The second one is back until its successor has the name.
_REMOVED = '.removed'
_REPLACED = '.replaced'
# Of an object in a bucket: several are in memory while they are copied, and sent again if they fail.
_OBJECT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Best:
  """The criterion for the best checkpoint.

  Attributes:
    metric: name of one of the metrics given to `Checkpoints.save`.
    higher_is_better: whether it grows as the model gets better.
  """

  metric: str
  higher_is_better: bool = True


class Checkpoints:
  """Saves and restores the training state of a workdir.

  Every process makes one and calls its methods alike, but for `wait` and `close`, which
  may be called by one process alone.
  """

  def __init__(self, workdir: str, meta: Mapping[str, Any], max_to_keep: int,
               best: Best | None = None):
    """Opens or creates `workdir`/checkpoints, and ends saves and removals that were cut off.

    Args:
      workdir: the run's folder.
      meta: JSON values stored with every step; 'model' is `config.model`.
      max_to_keep: newest steps that are kept, older ones are removed.
      best: keeps the best step as well.

    Raises:
      UserError: the folder cannot be written.
    """
    self._folder = os.path.join(buckets.absolute(workdir), FOLDER)
    self._meta = dict(meta)
    self._max_to_keep = max_to_keep
    self._best = best
    self._writer = futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoints')
    self._pending: futures.Future | None = None
    self._saving = threading.RLock()  # a signal's thread may save as well
    if jax.process_index() == 0:
      _prepare(self._folder)

  def describe(self, **meta: Any) -> None:
    """Adds JSON values that are stored with every step from now on."""
    self._meta |= meta

  def save(self, state: State, metrics: Mapping[str, float] | None = None) -> None:
    """Starts writing the state; returns as soon as its values are copied.

    Waits for the save before. A write that fails is a warning, and leaves the older
    checkpoints as they are.

    Args:
      state: the same on every device; may be donated afterwards.
      metrics: of the averaged generator; one that is not finite counts as missing. A step
        that is there already is replaced by one with metrics, and kept otherwise.
    """
    if jax.process_index() == 0:
      with self._saving:
        self._save(state, metrics)

  def _save(self, state: State, metrics: Mapping[str, float] | None) -> None:
    self.wait()
    step = int(state.step)
    if metrics is None and self._is_saved(step):
      return
    # A copy of the copy: on CPU `device_get` may only lend the buffers.
    host = jax.tree.map(np.array, jax.device_get(state))
    meta = {
        **self._meta, 'format': FORMAT, 'step': step,
        'images_seen': int(host.images_seen),
        'metrics': {name: float(value) for name, value in (metrics or {}).items()
                    if math.isfinite(value)},
        'best': dataclasses.asdict(self._best) if self._best else None}
    self._pending = self._writer.submit(self._write, self._path(step), host, meta)

  def restore(self, like: State) -> State | None:
    """The newest state that can be read.

    Newer ones that are proven to be damaged are renamed to `STEP.damaged`, with a warning.
    A disk that does not answer proves nothing: then nothing is renamed.

    Args:
      like: `jax.ShapeDtypeStruct`s with shardings, from `reader.abstract_state`.

    Returns:
      The state on the devices; None if there is none, or only leftovers of saves that
      were cut off.

    Raises:
      UserError: the newest is of another architecture or version, or a converted one; none
        can be read; UnreachableError if the disk does not answer, after several attempts.
    """
    return restore.restore_newest(self._folder, like, self._meta['model'])

  def wait(self) -> None:
    """Waits for the last save."""
    if self._pending is not None:
      self._pending.result()

  def close(self) -> None:
    """Waits for the last save and ends the thread."""
    try:
      self.wait()
    finally:
      self._writer.shutdown()

  def _path(self, step: int) -> str:
    return os.path.join(self._folder, str(step))

  def _holds(self, step: int) -> bool:
    return is_complete(self._path(step))

  def _is_saved(self, step: int) -> bool:
    """Whether the step is there; not if the disk does not tell, which writing finds out too."""
    try:
      return self._holds(step)
    except UnreachableError:
      return False

  def _write(self, path: str, state: State, meta: dict[str, Any]) -> None:
    try:
      if buckets.is_address(path):
        bucket_steps.write(path, lambda local: _fill(local, state, meta, _OBJECT_BYTES))
      else:
        _write_step(path, state, meta)
    except (OSError, ValueError) as error:
      fault = disk.classify(error)
      if not fault.is_system:
        raise
      if not buckets.is_address(path):
        new_files.discard(path + _PARTIAL)
      logging.warning('The checkpoint of step %d was not saved: %s. Training goes on with the '
                      'older ones kept; the next save is tried again.', meta['step'], fault.reason)
      return
    self._remove_old()

  def _remove_old(self) -> None:
    """Removes the steps that are not kept; none while it is not known which is the best."""
    try:
      steps = step_numbers(self._folder)
      kept = {self._path(step) for step in steps[-self._max_to_keep:]} | {best_step(self._folder)}
    except UnreachableError as error:
      logging.warning('%s cannot be read (%s): all older checkpoints are kept until the next '
                      'save.', error.path, error.reason)
      return
    for path in map(self._path, steps):
      if path not in kept:
        _remove(path)


def _prepare(folder: str) -> None:
  """Makes the folder, and ends saves and removals that were cut off."""
  if buckets.is_address(folder):
    bucket_steps.prepare(folder)
    return
  try:
    os.makedirs(folder, exist_ok=True)
    for name in disk.listed(folder):
      path = os.path.join(folder, name)
      if name.endswith(_PARTIAL) or _ORBAX_PARTIAL in name:
        logging.warning('Removing %s, a save that was cut off.', path)
        shutil.rmtree(path)
      elif name.endswith(_REMOVED):
        shutil.rmtree(path)
      elif name.endswith(_REPLACED):
        _put_back(path)
  except OSError as error:
    raise UserError(f'{folder} cannot be written: {error.strerror or error}') from error


def _put_back(replaced: str) -> None:
  """Removes a step directory that was replaced, or gives it back its name if it was not yet."""
  path = replaced.removesuffix(_REPLACED)
  if disk.status(path) is None:
    os.rename(replaced, path)
  else:
    shutil.rmtree(replaced)


def _remove(path: str) -> None:
  """Removes a step directory, of which no reader finds a part; what fails is a warning."""
  removed = path + _REMOVED
  try:
    if buckets.is_address(path):
      bucket_steps.remove(path)
      return
    shutil.rmtree(removed, ignore_errors=True)
    os.rename(path, removed)
  except OSError as error:
    logging.warning('The old checkpoint %s cannot be removed (%s).', path, error.strerror)
  shutil.rmtree(removed, ignore_errors=True)


def _write_step(path: str, state: State, meta: dict[str, Any]) -> None:
  """Writes a step directory, which gets its name when all of it is on the disk."""
  partial = path + _PARTIAL
  shutil.rmtree(partial, ignore_errors=True)
  _fill(partial, state, meta)
  _flush(partial)
  _give_name(partial, path)


def _fill(folder: str, state: State, meta: dict[str, Any], file_bytes: int | None = None) -> None:
  """Makes a folder with the items of a step directory; see `write_item` for `file_bytes`."""
  check_space(os.path.dirname(folder), state)
  write_meta(folder, meta)
  for item, trees in items_of(state).items():
    write_item(os.path.join(folder, item), trees, file_bytes)


def _give_name(partial: str, path: str) -> None:
  """Renames a complete step directory, in exchange for an incomplete one or one without metrics."""
  replaced = path + _REPLACED
  shutil.rmtree(replaced, ignore_errors=True)
  if os.path.lexists(path):
    os.rename(path, replaced)
  try:
    os.rename(partial, path)
  except OSError:
    if os.path.lexists(replaced):
      os.rename(replaced, path)
    raise
  shutil.rmtree(replaced, ignore_errors=True)


def _flush(folder: str) -> None:
  """Has the files of a folder on the disk before this returns, where the system can tell."""
  if os.name != 'posix':
    return
  for parent, _, names in os.walk(folder):
    for name in (*names, '.'):
      descriptor = os.open(os.path.join(parent, name), os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)


