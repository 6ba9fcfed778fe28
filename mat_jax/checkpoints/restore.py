"""Finds and reads the newest state of a run, on every process the same."""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import functools
import os
import shutil
from typing import Any

from absl import logging
import jax
import orbax.checkpoint as ocp

from mat_jax.checkpoints import bucket_steps
from mat_jax.checkpoints.items import read_arrays, read_shapes
from mat_jax.checkpoints.reader import FORMAT, State, check_architecture, is_converted, items_of
from mat_jax.checkpoints.step_directories import load_meta, step_numbers
from mat_jax.errors import UserError
from mat_jax.runtime import cluster
from mat_jax.runtime.storage import buckets, disk, staging
from mat_jax.runtime.storage.disk import DamagedError, UnreachableError

Tree = Any

# Orbax, and everything here, ignores names that end so.
_QUARANTINED = '.damaged'


class _IncompleteError(DamagedError):
  """A step directory lacks an item, so its save or copy was cut off."""


_FAILURES = (_IncompleteError, DamagedError, UserError, UnreachableError)
_OUTCOMES = (None, *_FAILURES)  # None where there is a state


def restore_newest(folder: str, like: State, model: Mapping[str, Any]) -> State | None:
  """The newest state that can be read; see `Checkpoints.restore`.

  Args:
    folder: of the step directories, on a disk that all processes share.
    like: `jax.ShapeDtypeStruct`s with shardings. A field whose default is None is also None in
      the state if the checkpoint lacks it, and is not read if it is None here.
    model: `config.model`.

  Raises:
    UserError: see `Checkpoints.restore`; UnreachableError if a checkpoint cannot be read and
      is not proven to be damaged. No name has been changed then.
  """
  skipped: dict[str, DamagedError] = {}
  step = _step_below(None, folder)
  while step is not None:
    path = os.path.join(folder, str(step))
    try:
      state = _read_alike(path, like, model)
    except DamagedError as error:
      skipped[path] = error
      step = _step_below(step, folder)
    else:
      _quarantine(skipped)
      return state
  if any(not isinstance(error, _IncompleteError) for error in skipped.values()):
    reasons = '; '.join(f'{os.path.basename(path)}: {error}' for path, error in skipped.items())
    raise UserError(f'none of the checkpoints in {folder} can be read ({reasons}); restore them '
                    'from a copy, or remove the folder to start anew')
  _quarantine(skipped)
  return None


def found_by_first(find: Callable[[], int | None], path: str) -> int | None:
  """The number >= 0, or None, that process 0 finds, on every process.

  Args:
    find: is called on process 0 alone, and may raise UserError.
    path: where it looks.

  Raises:
    UserError: it was raised on process 0; on the others it says so.
  """
  number, failure = None, None
  if jax.process_index() == 0:
    try:
      number = find()
    except UserError as error:
      failure = error
  code = -2 if failure else -1 if number is None else number
  found = cluster.all_gather('look for checkpoints', code)[0]
  if found == -2:
    raise failure or UnreachableError(path, 'it failed on process 0')
  return found if found >= 0 else None


def _step_below(step: int | None, folder: str) -> int | None:
  """The highest step below one that process 0 finds."""
  return found_by_first(lambda: max(
      (other for other in step_numbers(folder) if step is None or other < step), default=None),
      folder)


def _read_alike(path: str, like: State, model: Mapping[str, Any]) -> State:
  """`_read`, with the same outcome on every process."""
  try:
    outcome = _read(path, like, model)
  except (UserError, DamagedError) as error:
    outcome = error
  code = 1 + _FAILURES.index(type(outcome)) if isinstance(outcome, Exception) else 0
  outcomes = {_OUTCOMES[code] for code in cluster.all_gather('read a checkpoint', code)}
  if UnreachableError in outcomes and not isinstance(outcome, UnreachableError):
    raise UnreachableError(path, 'it failed on another process')
  if len(outcomes) > 1 and UnreachableError not in outcomes:
    raise UserError(f'only some processes can read {path}; the workdir has to be on a disk that '
                    'all of them share')
  if isinstance(outcome, Exception):
    raise outcome
  return outcome


def _read(path: str, like: State, model: Mapping[str, Any]) -> State:
  """The state of a step directory.

  Raises:
    DamagedError: it is incomplete or proven to be damaged.
    UserError: it is of another architecture or version, or a converted model;
      UnreachableError if it cannot be read for another reason.
  """
  if is_converted(path):
    raise UserError(f'{path} is a converted model without optimiser states; train in another '
                    'workdir with --config.init_from set to this one')
  items = items_of(like)
  for item in ('meta', *items):
    if not disk.listed(os.path.join(path, item)):
      raise _IncompleteError(f'its {item} is missing')
  meta = load_meta(path)
  if meta.get('format', 1) != FORMAT:
    raise UserError(
        f'the checkpoint {path} was written by another version of mat-jax (format '
        f'{meta.get("format", 1)}, this one has {FORMAT}) and cannot be resumed; choose another '
        f'workdir, with --config.init_from={path} to start from its networks')
  check_architecture(meta['model'], model, path)
  optional = {field.name for field in dataclasses.fields(like) if field.default is None}
  fields: dict[str, Any] = {}
  for item, trees in items.items():
    with staging.local_copy(os.path.join(path, item)) as local:
      fields |= _read_item(local, trees, optional)
  return type(like)(**fields)


def _read_item(path: str, like: dict[str, Tree], optional: Collection[str]) -> dict[str, Tree]:
  """The fields of an item; of the optional ones those that are there and wanted."""
  shapes = read_shapes(path)
  missing = {name for name in optional if (name in shapes) != (name in like)}
  shapes, like = ({name: tree for name, tree in trees.items() if name not in missing}
                  for trees in (shapes, like))
  found, wanted = ({name: leaf.shape for name, leaf in ocp.tree.to_flat_dict(tree).items()}
                   for tree in (shapes, like))
  for name in sorted(found.keys() | wanted.keys()):
    if found.get(name) != wanted.get(name):
      raise UserError(
          f'the checkpoint {path} has {_described(name, found)}, this run has '
          f'{_described(name, wanted)}; set the optimizer as it was, or choose another workdir, '
          f'with --config.init_from={os.path.dirname(path)} to start from its networks')
  return read_arrays(path, like)


def _described(name: tuple[Any, ...], shapes: Mapping[tuple[Any, ...], tuple[int, ...]]) -> str:
  text = '.'.join(map(str, name))
  return f'{text} of shape {shapes[name]}' if name in shapes else f'no {text}'


def _quarantine(skipped: Mapping[str, DamagedError]) -> None:
  """Quarantines damaged step directories: renames them, so that their steps can be saved again."""
  for path, error in skipped.items():
    found_by_first(functools.partial(_rename, path, error), path)


def _rename(path: str, error: DamagedError) -> None:
  aside = path + _QUARANTINED
  try:
    if buckets.is_address(path):
      bucket_steps.rename(path, aside)
    else:
      shutil.rmtree(aside, ignore_errors=True)
      disk.retried(lambda: os.rename(path, aside), path)
  except OSError as failure:
    raise UserError(f'{path} is damaged ({error}) and cannot be renamed: '
                    f'{disk.classify(failure).reason}') from failure
  logging.warning('The checkpoint %s cannot be read (%s). It is now %s, which may be removed; '
                  'an earlier one is used if there is one.', path, error, aside)
