"""Saves a generator in the form that lasts, and reads it: a folder as the Hugging Face Hub has it.

`model.safetensors` holds the weights under PyTorch's names, `config.json` the sizes of the network,
`README.md` the model card. Nothing here needs the Hub or its package; `convert.hub` does.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
import os
from typing import Any

import jax
import ml_collections
import numpy as np

from convert import model_card, safetensors_files, state_dicts
from convert.torch_files import limits
from convert.torch_files.file_window import FormatError
import mat_jax
from mat_jax.checkpoints.digest import variables_digest
from mat_jax.checkpoints.reader import EmaCheckpoint
from mat_jax.errors import UserError
from mat_jax.nn import model_config, sizes
from mat_jax.nn.generator import Generator
from mat_jax.runtime.storage import disk, new_files
from mat_jax.runtime.storage.disk import DamagedError

WEIGHTS = 'model.safetensors'
CONFIG = 'config.json'
CARD = 'README.md'
FORMAT = 'mat-jax pretrained'
VERSION = 1
_MAX_CONFIG_BYTES = 1 << 20
_MAX_WIDTH = 16.0


def save_pretrained(checkpoint: EmaCheckpoint, folder: str, card: model_card.Card) -> None:
  """Saves the averaged generator of a checkpoint.

  Args:
    checkpoint: see `mat_jax.checkpoints.reader.restore_ema`.
    folder: to create; it may exist if it is empty.
    card: licence and description.

  Raises:
    UserError: a model with labels, or the folder is not empty or cannot be written.
  """
  config = _config_of(checkpoint)
  state_dict = state_dicts.generator_state_dict(jax.device_get(checkpoint.variables))
  with new_files.new_directory(folder) as partial:
    with open(os.path.join(partial, WEIGHTS), 'xb') as file:
      safetensors_files.write(file, state_dict)
    for name, text in ((CONFIG, json.dumps(config, indent=2) + '\n'),
                       (CARD, model_card.text(card, config))):
      with open(os.path.join(partial, name), 'x', encoding='utf-8') as stream:
        stream.write(text)


def read_folder(folder: str) -> EmaCheckpoint:
  """Reads a folder that `save_pretrained` wrote.

  Returns:
    The generator, its arrays on the first local device.

  Raises:
    UserError: a file is missing or damaged, or they do not fit together.
  """
  config = _read_config(folder)
  path = os.path.join(folder, WEIGHTS)

  def load() -> dict[str, np.ndarray]:
    os.stat(path)  # the library reports a missing file without the system's error number
    return safetensors_files.read(path)

  try:
    state_dict = disk.read(load, path)
  except FormatError as error:
    raise UserError(f'{path} {error}; copy or download it again') from error
  except DamagedError as error:
    raise UserError(f'{folder} has no {WEIGHTS} that can be read ({error}); copy or download it '
                    'again') from error
  try:
    variables = state_dicts.generator_variables(state_dict)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  del state_dict  # the variables are a copy
  _check_fit(config, variables, folder)
  return EmaCheckpoint(
      step=config.step, images_seen=config.images_seen, path=folder,
      model=ml_collections.ConfigDict(config.model()),
      # To a device that is named, as checkpoints are: programs of others are kept by another key.
      variables=jax.device_put(variables, jax.local_devices()[0]))


@dataclasses.dataclass(frozen=True)
class _Config:
  """What `config.json` says of a network; `variables_sha256` is '' where it does not say."""

  resolution: int
  mapping_layers: int
  width: float
  step: int
  images_seen: int
  variables_sha256: str

  def model(self) -> dict[str, Any]:
    """The fields of `config.model`."""
    return {'resolution': self.resolution, 'mapping_layers': self.mapping_layers,
            'width': self.width, 'dtype': 'auto'}


def _config_of(checkpoint: EmaCheckpoint) -> dict[str, Any]:
  """The values of `config.json`."""
  model = checkpoint.model
  if model.get('label_dim'):
    raise UserError(f'the model takes {model.label_dim} labels; only models without labels can be '
                    'saved so, see convert.to_torch for others')
  return {
      'format': FORMAT, 'format_version': VERSION, 'library_version': mat_jax.__version__,
      'resolution': model.resolution, 'mapping_layers': model_config.mapping_layers(model),
      'width': model.width, 'step': checkpoint.step, 'images_seen': checkpoint.images_seen,
      'parameters': sum(leaf.size for leaf in jax.tree.leaves(checkpoint.variables['params'])),
      'variables_sha256': variables_digest(checkpoint.variables)}


def _read_config(folder: str) -> _Config:
  path = os.path.join(folder, CONFIG)

  def load() -> Any:
    with open(path, 'rb') as file:
      data = file.read(_MAX_CONFIG_BYTES + 1)
    if len(data) > _MAX_CONFIG_BYTES:
      raise DamagedError(f'longer than {_MAX_CONFIG_BYTES:,} bytes')
    try:
      return json.loads(data)
    except (ValueError, RecursionError) as error:
      raise DamagedError('no JSON') from error

  try:
    values = disk.read(load, path)
  except DamagedError as error:
    raise UserError(f'{folder} is no saved model: its {CONFIG} cannot be read ({error}); give a '
                    'folder that save_pretrained wrote') from error
  if not isinstance(values, dict) or values.get('format') != FORMAT:
    raise UserError(f'{path} is not that of a {FORMAT} model; give a folder that save_pretrained '
                    'wrote, or convert PyTorch files by python -m convert.from_torch')
  if values.get('format_version') != VERSION:
    raise UserError(f'{path} has format_version {values.get("format_version")!r:.20}, this version '
                    f'of mat-jax reads {VERSION}; install the newest mat-jax')
  return _parse(values, path)


def _parse(values: Mapping[str, Any], path: str) -> _Config:
  resolution = _number(values, 'resolution', path, 1, limits.RESOLUTION, (int,))
  try:
    sizes.check_resolution(resolution)
  except ValueError as error:
    raise UserError(f'{path} has {error}; download it again') from error
  digest = values.get('variables_sha256', '')
  return _Config(
      resolution,
      _number(values, 'mapping_layers', path, 1, limits.MAPPING_LAYERS, (int,)),
      float(_number(values, 'width', path, 1e-3, _MAX_WIDTH, (int, float))),
      _number(values, 'step', path, 0, 1 << 62, (int,)),
      _number(values, 'images_seen', path, 0, 1 << 62, (int,)),
      digest if isinstance(digest, str) else '?')


def _number(values: Mapping[str, Any], name: str, path: str, least: float, most: float,
            kinds: tuple[type, ...]) -> Any:
  value: Any = values.get(name)
  is_number = isinstance(value, kinds) and not isinstance(value, bool)
  if not is_number or not math.isfinite(value) or not least <= value <= most:
    raise UserError(f'{path} has {name} {value!r:.30}, which has to be a number from {least:g} to '
                    f'{most:g}; download it again')
  return value


def _check_fit(config: _Config, variables: Mapping[str, Any], folder: str) -> None:
  """Raises UserError unless the weights are those of the network that the config names."""
  network = Generator(config.resolution, mapping_layers=config.mapping_layers, width=config.width)
  wanted = state_dicts.variable_shapes(network)
  named = (f'{config.resolution} px, width {config.width:g} and {config.mapping_layers} mapping '
           'layers')
  if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, wanted):
    raise UserError(f'{folder}: {CONFIG} names a network of {named}, {WEIGHTS} holds another; '
                    'download both again')
  if config.variables_sha256 and variables_digest(variables) != config.variables_sha256:
    raise UserError(f'{folder}: {WEIGHTS} is damaged or was replaced, its values do not have the '
                    f'checksum in {CONFIG}; download both again, or remove variables_sha256 from '
                    f'{CONFIG} if they were replaced on purpose')
