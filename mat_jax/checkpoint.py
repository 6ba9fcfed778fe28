"""Checkpoints on disk, written asynchronously by Orbax.

A step directory holds three items: `ema` (what evaluation and inpainting need:
the averaged generator and its buffers), `training` (the rest of the state) and
`meta` (model config and position as JSON, so that the checkpoint alone is
enough to build the networks). Orbax writes beside and renames, so an
interrupted save leaves no step behind.
"""

from collections.abc import Collection, Mapping
import dataclasses
import json
import os
from typing import Any

from absl import logging
import jax
import ml_collections
import orbax.checkpoint as ocp

from mat_jax.errors import UserError
from mat_jax.train_state import TrainState

FOLDER = 'checkpoints'
_EMA_FIELDS = ('ema_params', 'ema_buffers')
_NETWORK_FIELDS = ('g_params', 'g_buffers', 'd_params')
# Fields of `config.model` that decide the shapes of the parameters.
_ARCHITECTURE = ('resolution', 'mapping_layers', 'width')

Tree = Any


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


def _split(state: TrainState) -> tuple[dict[str, Tree], dict[str, Tree]]:
  fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  ema = {name: fields.pop(name) for name in _EMA_FIELDS}
  return ema, fields


class Checkpoints:
  """Saves and restores the training state of a workdir."""

  def __init__(self, workdir: str, model: ml_collections.ConfigDict, max_to_keep: int):
    """Opens or creates `workdir`/checkpoints.

    Args:
      workdir: the run's folder.
      model: `config.model`, stored with every step.
      max_to_keep: older steps are removed.
    """
    self._model = model.to_dict()
    self._folder = os.path.join(os.path.abspath(workdir), FOLDER)
    options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, cleanup_tmp_directories=True)
    self._manager = ocp.CheckpointManager(
        self._folder, options=options, item_names=('ema', 'training', 'meta'))

  def latest_step(self) -> int | None:
    """The newest complete step, or None."""
    return self._manager.latest_step()

  def save(self, state: TrainState) -> None:
    """Starts writing the state; returns as soon as its values are copied."""
    step = int(state.step)
    if step == self._manager.latest_step():
      return
    ema, training = _split(state)
    meta = {'model': self._model, 'step': step, 'images_seen': int(state.images_seen)}
    self._manager.save(step, args=ocp.args.Composite(
        ema=ocp.args.StandardSave(ema), training=ocp.args.StandardSave(training),
        meta=ocp.args.JsonSave(meta)))

  def restore(self, like: TrainState) -> TrainState:
    """The newest state.

    Args:
      like: `jax.ShapeDtypeStruct`s with shardings, from `abstract_state`.

    Returns:
      The restored state on the devices.

    Raises:
      UserError: the checkpoint is of another architecture, or a converted one.
    """
    step = self._manager.latest_step()
    path = os.path.join(self._folder, str(step))
    if os.path.isdir(os.path.join(path, 'networks')):
      raise UserError(f'{path} is a converted model without optimiser states; train in another '
                      'workdir with --config.init_from set to this one')
    check_architecture(read_meta(path)['model'], self._model, path)
    ema, training = _split(like)
    restored = self._manager.restore(step, args=ocp.args.Composite(
        ema=ocp.args.StandardRestore(ema), training=ocp.args.StandardRestore(training)))
    return TrainState(**restored.ema, **restored.training)

  def close(self) -> None:
    """Waits for the last save."""
    self._manager.wait_until_finished()
    self._manager.close()


def abstract_state(state: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
  """Shapes, dtypes and sharding of a state, to restore into."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


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
  """Raises UserError at the first field in which two models differ."""
  for field in _ARCHITECTURE:
    if found.get(field) != wanted[field]:
      raise UserError(
          f'the checkpoint {path} has model.{field} {found.get(field)}, the config says '
          f'{wanted[field]}; set --config.model.{field}={found.get(field)} or choose another '
          'workdir')


def find_step(path: str) -> str:
  """The step directory that a workdir, a checkpoints folder or itself stands for.

  Raises:
    UserError: nothing there.
  """
  path = os.path.abspath(path)
  if os.path.isdir(os.path.join(path, 'meta')):
    return path
  for folder in (os.path.join(path, FOLDER), path):
    steps = [name for name in _list(folder) if name.isdigit()]
    if steps:
      return os.path.join(folder, max(steps, key=int))
  raise UserError(f'there is no checkpoint in {path}; train there first, or give the folder of '
                  'a trained or converted model')


def _list(folder: str) -> list[str]:
  return os.listdir(folder) if os.path.isdir(folder) else []


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
  ema = _restore_item(step, 'ema', _EMA_FIELDS)
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
  converted = os.path.isdir(os.path.join(step, 'networks'))
  item = 'networks' if converted else 'training'
  networks = _restore_item(step, item, [name for name in _NETWORK_FIELDS if name in fields])
  networks |= _restore_item(step, 'ema', [name for name in _EMA_FIELDS if name in fields])
  return StartingPoint(read_meta(step)['model'], networks, step)


def _restore_item(step: str, item: str, fields: Collection[str]) -> dict[str, Tree]:
  """Those of the fields that an item of a step directory has, on the first local device."""
  path = os.path.join(step, item)
  logging.info('Reading %s.', path)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      shapes = checkpointer.metadata(path)
      shapes = dict(getattr(shapes, 'item_metadata', shapes))
      like = jax.tree.map(
          lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
          {name: shapes[name] for name in fields if name in shapes})
      if not like:
        return {}
      return checkpointer.restore(path, args=ocp.args.PyTreeRestore(
          item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like),
          partial_restore=True))
  except (OSError, ValueError, KeyError, TypeError) as error:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(f'the checkpoint {path} cannot be read ({reason}); it may be incomplete, '
                    'use an earlier one') from error
