"""Networks packed into one file, as they are shipped with the project and shared.

A safetensors file holds the averaged generator and the discriminator under their Flax names, in
float16, and the model's config as JSON in its header. Nothing in it is executed.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from typing import Any

from flax import traverse_util
import jax
import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16
import numpy as np
import safetensors
from safetensors.numpy import save

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, new_files, staging

SUFFIX = '.safetensors'
# Of the models that are shipped: NAME.safetensors in it is given by NAME, and a folder of that name
# as './NAME'.
MODELS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'models')
_META = 'mat-jax'
_FIELDS = ('ema_params', 'ema_buffers', 'd_params')
_SEPARATOR = '/'

Tree = Any


@dataclasses.dataclass(frozen=True)
class Packed:
  """What a packed file holds.

  Attributes:
    meta: `model` (`config.model`), `step`, `images_seen`.
    fields: of `TrainState`: `ema_params`, `ema_buffers` and, unless it was left out, `d_params`;
      float32 arrays.
  """

  meta: Mapping[str, Any]
  fields: dict[str, Tree]


def find(path: str) -> str | None:
  """The packed file that a path, or the name of a shipped model, stands for; None if it is none."""
  shipped = os.path.join(MODELS, path + SUFFIX)
  if os.path.basename(path) == path and os.path.isfile(shipped):
    return shipped
  is_file = buckets.is_address(path) or os.path.isfile(path)
  return path if path.endswith(SUFFIX) and is_file else None


def write(path: str, packed: Packed) -> None:
  """Writes a packed file, its arrays in float16.

  Raises:
    UserError: it cannot be written, or a value is beyond float16.
  """
  arrays = {}
  for field in _FIELDS:
    for name, array in traverse_util.flatten_dict(packed.fields.get(field, {})).items():
      full = _SEPARATOR.join((field, *map(str, name)))
      array = np.asarray(jax.device_get(array), np.float32)
      with np.errstate(over='ignore'):  # said below, by name
        arrays[full] = array.astype(np.float16)
      if not np.isfinite(arrays[full]).all():
        raise UserError(f'{full} has values beyond float16, so it cannot be packed')
  with new_files.new_file(path) as file:
    file.write(save(arrays, {_META: json.dumps(dict(packed.meta), sort_keys=True)}))


def read(path: str) -> Packed:
  """Reads a packed file.

  Raises:
    UserError: it is missing, damaged, or of another kind.
  """
  with staging.local_copy(path) as file:
    return _read(file)


def _read(path: str) -> Packed:
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      meta = json.loads((file.metadata() or {}).get(_META, 'null'))
      if not isinstance(meta, dict) or not isinstance(meta.get('model'), dict):
        raise UserError(f'{path} holds no packed model of mat-jax; files of PyTorch weights are '
                        'converted by python -m convert.from_torch')
      fields: dict[str, dict[tuple[str, ...], np.ndarray]] = {}
      for name in file.keys():
        field, *rest = name.split(_SEPARATOR)
        fields.setdefault(field, {})[tuple(rest)] = file.get_tensor(name).astype(np.float32)
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise UserError(f'the packed model {path} cannot be read ({error}); get it anew') from error
  if not {'ema_params', 'ema_buffers'} <= fields.keys() <= set(_FIELDS):
    raise UserError(f'{path} is a damaged packed model: it has {", ".join(sorted(fields))}')
  return Packed(meta, {field: traverse_util.unflatten_dict(flat) for field, flat in fields.items()})
