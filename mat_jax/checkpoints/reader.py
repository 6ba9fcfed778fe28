"""Reads the checkpoints of a run, or of a converted model.

A step directory holds three items. `ema` is what evaluation and inpainting need: the
averaged generator and its buffers. `training` is the rest of the state; a converted model
has `networks` instead. `meta` holds the config and the position as JSON, so that the
checkpoint alone is enough to build the networks. `mat_jax.checkpoints.manager` writes them.
"""

from collections.abc import Collection, Mapping
import dataclasses
import os
from typing import Any

from absl import logging
import jax
import ml_collections

from mat_jax.checkpoints import packed
from mat_jax.checkpoints.items import read_arrays, read_shapes
from mat_jax.checkpoints.step_directories import FOLDER, read_found, read_meta, read_present
from mat_jax.errors import UserError
from mat_jax.runtime.storage import disk, staging
from mat_jax.runtime.storage.disk import DamagedError

# Grows when runs that were saved by an earlier version cannot be resumed; 1 is not written.
FORMAT = 2
_EMA_FIELDS = ('ema_params', 'ema_buffers')
_NETWORK_FIELDS = ('g_params', 'g_buffers', 'd_params')
# Fields of `config.model` that decide the shapes of the parameters.
_ARCHITECTURE = ('resolution', 'mapping_layers', 'width')

Tree = Any
# A dataclass of trees: `mat_jax.training.step.train_state.TrainState`.
State = Any


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


def abstract_state(state: State, sharding: jax.sharding.Sharding) -> State:
  """Shapes, dtypes and sharding of a state, to restore into."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def items_of(state: State) -> dict[str, dict[str, Tree]]:
  """The fields of a state by the item that stores them: item -> field -> tree.

  Fields that are None, as a state need not have them, are left out.
  """
  fields = {field.name: tree for field in dataclasses.fields(state)
            if (tree := getattr(state, field.name)) is not None}
  ema = {name: fields.pop(name) for name in _EMA_FIELDS}
  return {'ema': ema, 'training': fields}


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


def resolve_model_config(model: ml_collections.ConfigDict, found: Mapping[str, Any],
              path: str) -> ml_collections.ConfigDict:
  """Resolves a `config.model`: fields that are None get the values of a checkpoint.

  Args:
    model: `config.model`; its `mapping_layers` may be None.
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


def restore_ema(path: str) -> EmaCheckpoint:
  """Reads the averaged generator of a workdir or step directory.

  Args:
    path: see `step_directories.find_step`; or a packed model, or the name of a shipped one.

  Returns:
    The checkpoint, its arrays on the first local device.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  file = packed.find(path)
  if file is None:
    return read_found(path, _read_ema)
  found = packed.read(file)
  variables = {'params': found.fields['ema_params'], 'buffers': found.fields['ema_buffers']}
  return EmaCheckpoint(
      step=found.meta['step'], model=ml_collections.ConfigDict(found.meta['model']),
      images_seen=found.meta['images_seen'], path=file,
      variables=jax.device_put(variables, jax.local_devices()[0]))


def is_saved_model(path: str) -> bool:
  """Whether a path is a folder in the form of `convert.saved_models`, which that module reads.

  A converted model has a `config.json` too, for people, but its networks are checkpoints.
  """
  return (os.path.isfile(os.path.join(path, 'config.json'))
          and not os.path.isdir(os.path.join(path, FOLDER)))


def read_model(path: str) -> tuple[str, Mapping[str, Any]]:
  """The file or step directory of a path as of `restore_ema`, and the `config.model` in it."""
  file = packed.find(path)
  if file is not None:
    return file, packed.read(file).meta['model']
  return read_found(path, lambda step: (step, read_meta(step)['model']))


def restore_ema_of(step: str) -> EmaCheckpoint:
  """Reads the averaged generator of a step directory that was there a moment ago.

  Raises:
    RemovedError: it is not there any more, or is being removed.
    UserError: it cannot be read.
  """
  return read_present(step, _read_ema)


def _read_ema(step: str) -> EmaCheckpoint:
  meta = read_meta(step)
  ema = _restore_fields(step, 'ema', _EMA_FIELDS)
  return EmaCheckpoint(
      step=meta['step'], model=ml_collections.ConfigDict(meta['model']),
      images_seen=meta['images_seen'], path=step,
      variables={'params': ema['ema_params'], 'buffers': ema['ema_buffers']})


@dataclasses.dataclass(frozen=True)
class PretrainedNetworks:
  """Pretrained networks to start another run from.

  Attributes:
    model: the checkpoint's `config.model`.
    networks: `TrainState` field -> tree; no `d_params` if the checkpoint, a
      converted generator or a run without adversarial losses, has no trained one.
    path: the step directory.
  """

  model: Mapping[str, Any]
  networks: dict[str, Tree]
  path: str


def is_converted(step: str) -> bool:
  """Whether a step directory is of a converted model, which has no optimiser states.

  Raises:
    UnreachableError: that cannot be found out.
  """
  return disk.is_folder(os.path.join(step, 'networks'))


def restore_networks(path: str,
                     fields: Collection[str] = _NETWORK_FIELDS + _EMA_FIELDS) -> PretrainedNetworks:
  """Reads the networks of a trained or converted checkpoint.

  Args:
    path: as of `restore_ema`.
    fields: of `TrainState`, which to read; the rest stays on the disk.

  Returns:
    The networks without optimiser states, on the first local device.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """

  def read(step: str) -> PretrainedNetworks:
    item = 'networks' if is_converted(step) else 'training'
    networks = _restore_fields(step, item, [name for name in _NETWORK_FIELDS if name in fields])
    networks |= _restore_fields(step, 'ema', [name for name in _EMA_FIELDS if name in fields])
    meta = read_meta(step)
    if not _has_trained_discriminator(meta):
      networks.pop('d_params', None)
    return PretrainedNetworks(meta['model'], networks, step)

  file = packed.find(path)
  if file is not None:
    return _packed_networks(file, fields)
  return read_found(path, read)


def _packed_networks(file: str, fields: Collection[str]) -> PretrainedNetworks:
  """The networks of a packed file, in which the averaged generator stands for the other."""
  found = packed.read(file)
  networks = {'g_params': found.fields['ema_params'], 'g_buffers': found.fields['ema_buffers'],
              **found.fields}
  return PretrainedNetworks(found.meta['model'], jax.device_put(
      {name: tree for name, tree in networks.items() if name in fields},
      jax.local_devices()[0]), file)


def _has_trained_discriminator(meta: Mapping[str, Any]) -> bool:
  train = meta.get('config', {}).get('train', {})
  names = ('adversarial_weight', 'adversarial_stage1_weight')
  # Runs from before the fields had both weights 1.
  return any(train.get(name, 1.0) for name in names)


def _restore_fields(step: str, item: str, fields: Collection[str]) -> dict[str, Tree]:
  """Those of the fields that an item of a step directory has, on the first local device."""
  path = os.path.join(step, item)
  logging.info('Reading %s.', path)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    with staging.local_copy(path) as local:
      shapes = read_shapes(local)
      like = {name: abstract_state(shapes[name], device) for name in fields if name in shapes}
      return read_arrays(local, like) if like else {}
  except DamagedError as error:
    raise UserError(f'the checkpoint {path} cannot be read ({error}); it may be incomplete, '
                    'use an earlier one') from error
