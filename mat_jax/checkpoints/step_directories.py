"""Finds step directories and reads their positions, while a run may remove and replace them.

`mat_jax.checkpoints.reader` says what is in a step directory.
"""

from collections.abc import Callable
import math
import os
import time
from typing import Any, TypeVar

from absl import logging

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, disk
from mat_jax.runtime.storage.disk import DamagedError

FOLDER = 'checkpoints'
BEST = 'best'
# The file of the `meta` item. In a bucket it is the last object of a step directory to be written
# and the first to be removed: without it there is no checkpoint.
META = 'meta/metadata'
# How often a path is looked up while a run removes what was found there.
_LOOKS = 5

T = TypeVar('T')


class RemovedError(UserError):
  """A step directory was removed, or replaced, while it was read."""


def load_meta(path: str) -> dict[str, Any]:
  """The `meta` item of a step directory.

  Raises:
    DamagedError: it is missing or proven to be damaged.
    UnreachableError: it cannot be read, for another reason.
  """
  meta = disk.load_json(os.path.join(path, META))
  if not isinstance(meta, dict) or not isinstance(meta.get('model'), dict):
    raise DamagedError('its meta has no model')
  return meta


def read_meta(path: str) -> dict[str, Any]:
  """The `meta` item of a step directory; UserError when it is no checkpoint, or unreachable."""
  try:
    return load_meta(path)
  except DamagedError as error:
    raise UserError(f'{path} is not a checkpoint of mat-jax (its meta/metadata cannot be '
                    f'read: {error}); give a workdir, or a step directory inside its '
                    'checkpoints') from error


def step_numbers(folder: str) -> list[int]:
  """The steps that a checkpoints folder holds, readable or not, in ascending order.

  Raises:
    UnreachableError: it cannot be read.
  """
  return sorted(int(name) for name in disk.listed(folder) if name.isdigit())


def is_complete(path: str) -> bool:
  """Whether a step directory has a meta that can be read, and an averaged generator.

  Raises:
    UnreachableError: that cannot be found out.
  """
  return _complete_meta(path) is not None


def _complete_meta(path: str) -> dict[str, Any] | None:
  """The meta of a step directory that is complete, else None."""
  try:
    meta = load_meta(path)
  except DamagedError:
    return None
  return meta if disk.listed(os.path.join(path, 'ema')) else None


def _complete_metas(path: str) -> dict[str, dict[str, Any]]:
  """Complete step directory of a workdir or checkpoints folder -> meta, in ascending order."""
  folder = _steps_folder(path)
  steps = [os.path.join(folder, str(step)) for step in step_numbers(folder)]
  return {step: meta for step in steps if (meta := _complete_meta(step)) is not None}


def newest_step(path: str) -> str | None:
  """The newest complete step directory of a workdir or checkpoints folder, or None.

  Warns of newer ones that are not complete. Looks again if a run replaces all that there is.

  Raises:
    UnreachableError: one of them cannot be read, which does not make an older one the newest.
  """
  for _ in range(_LOOKS):
    folder = _steps_folder(path)
    steps = step_numbers(folder)
    for step in reversed(steps):
      found = os.path.join(folder, str(step))
      if is_complete(found):
        return found
      if disk.is_folder(found):  # not removed since it was listed
        logging.warning('%s is incomplete; looking for an earlier checkpoint.', found)
    if step_numbers(folder) == steps:
      break
  return None


def complete_steps(path: str) -> dict[int, str]:
  """The complete step directories of a workdir or checkpoints folder, in ascending order.

  Raises:
    UnreachableError: one of them cannot be read.
  """
  return {_number(step): step for step in _complete_metas(path)}


def is_last(step: str) -> bool:
  """Whether a step directory is the last of its run, or of a model that is not trained on.

  One that was removed meanwhile is not.

  Raises:
    UnreachableError: it cannot be read.
  """
  meta = _complete_meta(step)
  if meta is None:
    return False
  train = (meta.get('config') or {}).get('train')
  if not train:
    return True
  steps = max(1, round(train['total_kimg'] * 1000 / train['batch_size']))
  return meta['images_seen'] >= steps * train['batch_size']


def best_step(path: str) -> str | None:
  """The step directory of a run that its metric says is the best, or None.

  Which metric decides is written in the checkpoints (`manager.Best`). The newest wins a tie.

  Args:
    path: workdir or checkpoints folder.

  Returns:
    The step directory, None if no step has the metric.

  Raises:
    UnreachableError: one of the checkpoints cannot be read, so that it is not known.
  """
  metas = _complete_metas(path)
  criterion = metas[max(metas, key=_number)].get('best') if metas else None
  if not criterion:
    return None
  sign = 1 if criterion['higher_is_better'] else -1
  scores = {step: (meta.get('metrics') or {}).get(criterion['metric'], math.nan)
            for step, meta in metas.items()}
  ranked = [step for step in scores if math.isfinite(scores[step])]
  return max(ranked, key=lambda step: (sign * scores[step], _number(step)), default=None)


def _number(step: str) -> int:
  return int(os.path.basename(step))


def _steps_folder(path: str) -> str:
  """The folder of the steps of a workdir, or of a checkpoints folder itself."""
  path = buckets.absolute(path)
  inner = os.path.join(path, FOLDER)
  return inner if step_numbers(inner) else path


def find_step(path: str) -> str:
  """The step directory that a path stands for.

  Args:
    path: a step directory; a workdir or checkpoints folder, for its newest complete step;
      or either of these followed by `/best`, see `best_step`.

  Raises:
    UserError: nothing there, or unreachable.
  """
  path = buckets.absolute(path)
  if disk.is_folder(os.path.join(path, 'meta')):
    return path
  parent, name = os.path.split(path)
  wants_best = name == BEST and not disk.exists(path)
  folder = parent if wants_best else path
  step = newest_step(folder)
  if step is None:
    raise UserError(_absence(folder))
  if wants_best:
    step = best_step(folder)
    if step is None:
      raise UserError(f'no checkpoint in {folder} has a validation metric that says which is the '
                      'best; leave out /best to take the newest')
  return step


def _absence(folder: str) -> str:
  steps = _steps_folder(folder)
  if step_numbers(steps):
    return (f'none of the checkpoints in {steps} is complete; restore them from a copy, or '
            'train again')
  return (f'there is no checkpoint in {folder}; train there first, or give the folder of a '
          'trained or converted model')


def read_found(path: str, read: Callable[[str], T]) -> T:
  """Calls a function that reads the step directory of a path; returns its result.

  A run may remove older steps at any time: if one vanishes while it is read, the path is resolved
  again.

  Args:
    path: see `find_step`.
    read: function of the step directory, which raises UserError if that cannot be read.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  for _ in range(_LOOKS):
    step = find_step(path)
    try:
      return read_present(step, read)
    except RemovedError as error:
      if step == buckets.absolute(path):
        raise
      logging.info('%s', error)
      removed = error
  raise removed


def read_present(step: str, read: Callable[[str], T]) -> T:
  """Calls a function that reads a step directory; RemovedError if that vanishes meanwhile."""
  before = _identity(step)
  try:
    return read(step)
  except UserError as error:
    # A folder of which a part was removed is being removed.
    for delay in (0, *disk.DELAYS):
      time.sleep(delay)
      if _identity(step) != before or not is_complete(step):
        raise RemovedError(f'{step} was removed while it was read; give the workdir for the '
                           'newest one') from error
    raise


def _identity(step: str) -> Any:
  """A value that changes when a step directory is replaced; None if there is none."""
  if buckets.is_address(step):
    meta = os.path.join(step, META)
    found = disk.read(lambda: buckets.read(meta), meta)
    return found.generation if found.data is not None else None
  status = disk.status(step)
  return (status.st_dev, status.st_ino) if status else None
