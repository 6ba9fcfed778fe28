"""Reads the checkpoints of a run, or of a converted model.

A step directory holds three items. `ema` is what evaluation and inpainting need: the
averaged generator and its buffers. `training` is the rest of the state; a converted model
has `networks` instead. `meta` holds the config and the position as JSON, so that the
checkpoint alone is enough to build the networks. `mat_jax.checkpoints` writes them.
"""

from collections.abc import Collection, Mapping
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from absl import logging
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from mat_jax import orbax_noise
from mat_jax.errors import UserError
from mat_jax.train_state import TrainState

FOLDER = 'checkpoints'
BEST = 'best'
# Grows when runs that were saved by an earlier version cannot be resumed; 1 is not written.
FORMAT = 2
_EMA_FIELDS = ('ema_params', 'ema_buffers')
_NETWORK_FIELDS = ('g_params', 'g_buffers', 'd_params')
# Fields of `config.model` that decide the shapes of the parameters.
_ARCHITECTURE = ('resolution', 'mapping_layers', 'width')

Tree = Any


class UnreadableError(Exception):
  """Part of a checkpoint cannot be read; the text is the reason."""


@dataclasses.dataclass(frozen=True)
class EmaCheckpoint:
  """The averaged generator of a checkpoint.

  Attributes:
    step: training step.
    model: its `config.model`.
    images_seen: real images shown until then.
    variables: {'params', 'buffers'} for `Generator.apply`.
    path: the step directory.
  """

  step: int
  model: ml_collections.ConfigDict
  images_seen: int
  variables: dict[str, Tree]
  path: str


def abstract_state(state: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
  """Shapes, dtypes and sharding of a state, to restore into."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def items_of(state: TrainState) -> dict[str, dict[str, Tree]]:
  """The fields of a state in the items that hold them: item -> field -> tree."""
  fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  ema = {name: fields.pop(name) for name in _EMA_FIELDS}
  return {'ema': ema, 'training': fields}


def read_meta(path: str) -> dict[str, Any]:
  """The `meta` item of a step directory; UserError when it is no checkpoint."""
  file = os.path.join(path, 'meta', 'metadata')
  try:
    with open(file, encoding='utf-8') as stream:
      meta = json.load(stream)
    if not isinstance(meta['model'], dict):
      raise ValueError('model is no object')
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is not a checkpoint of this program ({file} cannot be read); '
                    'give a workdir, or a step directory inside its checkpoints') from error
  return meta


def check_architecture(found: Mapping[str, Any], wanted: Mapping[str, Any], path: str) -> None:
  """Raises UserError at the first field in which two models differ.

  A wanted `mapping_layers` of None stands for that of the checkpoint.
  """
  for field in _ARCHITECTURE:
    if field == 'mapping_layers' and wanted[field] is None:
      continue
    if found.get(field) != wanted[field]:
      raise UserError(
          f'the checkpoint {path} has model.{field} {found.get(field)}, the config says '
          f'{wanted[field]}; set --config.model.{field}={found.get(field)} or choose another '
          'workdir')


def fit_model(model: ml_collections.ConfigDict, found: Mapping[str, Any],
              path: str) -> ml_collections.ConfigDict:
  """A `config.model` whose open fields are those of a checkpoint.

  Args:
    model: `config.model`; a `mapping_layers` of None is open.
    found: the model in the checkpoint's meta.
    path: the checkpoint, for messages.

  Returns:
    A copy with every field set.

  Raises:
    UserError: a field that is set differs; see `check_architecture`.
  """
  check_architecture(found, model, path)
  fitted = model.copy_and_resolve_references()
  fitted.mapping_layers = found.get('mapping_layers')
  return fitted


def step_numbers(folder: str) -> list[int]:
  """The steps that a checkpoints folder holds, readable or not, in ascending order."""
  return sorted(int(name) for name in listed(folder) if name.isdigit())


def listed(folder: str) -> list[str]:
  """The names in a folder, none if there is no such folder."""
  return os.listdir(folder) if os.path.isdir(folder) else []


def is_complete(path: str) -> bool:
  """Whether a step directory has a meta that can be read, and an averaged generator."""
  try:
    read_meta(path)
  except UserError:
    return False
  return bool(listed(os.path.join(path, 'ema')))


def newest_step(path: str) -> str | None:
  """The newest complete step directory of a workdir or checkpoints folder, or None.

  Warns of newer ones that are not complete.
  """
  folder = _steps_folder(path)
  for step in reversed(step_numbers(folder)):
    found = os.path.join(folder, str(step))
    if is_complete(found):
      return found
    logging.warning('%s is incomplete; an earlier checkpoint is looked for.', found)
  return None


def complete_steps(path: str) -> dict[int, str]:
  """The complete step directories of a workdir or checkpoints folder, in ascending order."""
  folder = _steps_folder(path)
  steps = {step: os.path.join(folder, str(step)) for step in step_numbers(folder)}
  return {step: found for step, found in steps.items() if is_complete(found)}


def is_last(step: str) -> bool:
  """Whether a step directory is the last of its run, or of a model that is not trained on."""
  meta = read_meta(step)
  train = (meta.get('config') or {}).get('train')
  if not train:
    return True
  steps = max(1, round(train['total_kimg'] * 1000 / train['batch_size']))
  return meta['images_seen'] >= steps * train['batch_size']


def best_step(path: str) -> str | None:
  """The step directory of a run that its metric says is the best, or None.

  Which metric decides is written in the checkpoints: `checkpoints.Best`. The newest wins a
  tie.

  Args:
    path: workdir or checkpoints folder.

  Returns:
    The step directory, None if no step has the metric.
  """
  metas = {step: read_meta(step) for step in complete_steps(path).values()}
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
  path = os.path.abspath(path)
  inner = os.path.join(path, FOLDER)
  return inner if step_numbers(inner) else path


def find_step(path: str) -> str:
  """The step directory that a path stands for.

  Args:
    path: a step directory; a workdir or checkpoints folder, for its newest complete step;
      or either of these followed by `/best`, see `best_step`.

  Raises:
    UserError: nothing there.
  """
  path = os.path.abspath(path)
  if os.path.isdir(os.path.join(path, 'meta')):
    return path
  parent, name = os.path.split(path)
  wants_best = name == BEST and not os.path.exists(path)
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


def restore_ema(path: str) -> EmaCheckpoint:
  """Reads the averaged generator of a workdir or step directory.

  Args:
    path: see `find_step`.

  Returns:
    The checkpoint, its arrays on the first local device.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  step = find_step(path)
  meta = read_meta(step)
  ema = _restore_fields(step, 'ema', _EMA_FIELDS)
  return EmaCheckpoint(
      step=meta['step'], model=ml_collections.ConfigDict(meta['model']),
      images_seen=meta['images_seen'], path=step,
      variables={'params': ema['ema_params'], 'buffers': ema['ema_buffers']})


@dataclasses.dataclass(frozen=True)
class StartingPoint:
  """Networks to start another run from.

  Attributes:
    model: the checkpoint's `config.model`.
    networks: `TrainState` field -> tree; no `d_params` if the checkpoint, a
      converted generator, has none.
    path: the step directory.
  """

  model: Mapping[str, Any]
  networks: dict[str, Tree]
  path: str


def is_converted(step: str) -> bool:
  """Whether a step directory is of a converted model, which has no optimiser states."""
  return os.path.isdir(os.path.join(step, 'networks'))


def restore_networks(path: str,
                     fields: Collection[str] = _NETWORK_FIELDS + _EMA_FIELDS) -> StartingPoint:
  """Reads the networks of a trained or converted checkpoint.

  Args:
    path: see `find_step`.
    fields: of `TrainState`, which to read; the rest stays on the disk.

  Returns:
    The networks without optimiser states, on the first local device.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  step = find_step(path)
  item = 'networks' if is_converted(step) else 'training'
  networks = _restore_fields(step, item, [name for name in _NETWORK_FIELDS if name in fields])
  networks |= _restore_fields(step, 'ema', [name for name in _EMA_FIELDS if name in fields])
  return StartingPoint(read_meta(step)['model'], networks, step)


def _restore_fields(step: str, item: str, fields: Collection[str]) -> dict[str, Tree]:
  """Those of the fields that an item of a step directory has, on the first local device."""
  path = os.path.join(step, item)
  logging.info('Reading %s.', path)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    shapes = read_shapes(path)
    like = {name: abstract_state(shapes[name], device) for name in fields if name in shapes}
    return read_arrays(path, like) if like else {}
  except UnreadableError as error:
    raise UserError(f'the checkpoint {path} cannot be read ({error}); it may be incomplete, '
                    'use an earlier one') from error


# The handler is called without a `Checkpointer`, in which a process whose read fails would
# leave the others waiting at a barrier. What it raises for damaged files:
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError)


def read_shapes(path: str) -> dict[str, Tree]:
  """Shapes and dtypes of the trees in an item.

  Args:
    path: the item's folder in a step directory.

  Returns:
    `TrainState` field -> tree; named tuples have become dicts.

  Raises:
    UnreadableError: it is damaged.
  """
  try:
    with orbax_noise.quiet():
      return dict(ocp.PyTreeCheckpointHandler().metadata(pathlib.Path(path)))
  except _READ_ERRORS as error:
    raise UnreadableError(_reason(error)) from error


def read_arrays(path: str, like: dict[str, Tree]) -> dict[str, Tree]:
  """Arrays of an item.

  Args:
    path: the item's folder in a step directory.
    like: `TrainState` field -> tree of `jax.ShapeDtypeStruct` with shardings; other
      fields stay on the disk.

  Returns:
    Trees of the structure of `like`.

  Raises:
    UnreadableError: it is damaged.
  """
  args = ocp.args.PyTreeRestore(
      item=like, partial_restore=True,
      restore_args=jax.tree.map(
          lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), like))
  try:
    with orbax_noise.quiet():
      host = ocp.PyTreeCheckpointHandler().restore(pathlib.Path(path), args=args)
  except _READ_ERRORS as error:
    raise UnreadableError(_reason(error)) from error
  return jax.tree.map(
      lambda leaf, array: jax.make_array_from_callback(
          leaf.shape, leaf.sharding, lambda index: array[index]), like, host)


def _reason(error: Exception) -> str:
  return (str(error) or type(error).__name__).splitlines()[0]
