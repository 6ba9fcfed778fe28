"""Builds the networks of a configuration, and checks `config.model`.

`configs/base.py` documents every field.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from mat_jax.errors import UserError
from mat_jax.nn.discriminator import Discriminator
from mat_jax.nn.generator import Generator
from mat_jax.nn.projected import MIN_RESOLUTION, ProjectedDiscriminator
from mat_jax.nn.sizes import check_resolution
from mat_jax.ops.implementation import Implementation, for_platform

GROUP_SIZE = 4  # images of a group of the minibatch standard deviation
RELEASED_MAPPING_LAYERS = 8


_DTYPES = ('float32', 'bfloat16', 'float16')
_AMPERE = 8.0  # compute capability of the first NVIDIA cards with tensor cores for bfloat16


def compute_dtype(name: str, device: jax.Device | None = None) -> Any:
  """The dtype of `config.model.dtype`.

  Args:
    name: 'float32', 'bfloat16', 'float16', or 'auto' for the fastest on the device.
    device: what to compute on; None for the first one of this process.

  Raises:
    UserError: another name.
  """
  if name == 'auto':
    name = _fastest_dtype(device or jax.local_devices()[0])
  if name not in _DTYPES:
    raise UserError(f"model.dtype is {name!r}; choose 'float32', 'bfloat16', 'float16' or 'auto'")
  return jnp.dtype(name)


def _fastest_dtype(device: jax.Device) -> str:
  """bfloat16 on TPUs and NVIDIA cards since Ampere, float16 on older ones, else float32."""
  if device.platform == 'tpu':
    return 'bfloat16'
  try:
    # Of NVIDIA cards a number such as '7.5'; others have none, or a name.
    capability = float(getattr(device, 'compute_capability', ''))
  except ValueError:
    return 'float32'
  return 'bfloat16' if capability >= _AMPERE else 'float16'


def _checked_resolution(model: ml_collections.ConfigDict) -> int:
  try:
    check_resolution(model.resolution)
  except ValueError as error:
    raise UserError(f'model.{error}; choose 32, 64, 128, 256 or 512') from error
  return model.resolution


def generator_from_config(model: ml_collections.ConfigDict, implementations: str = 'auto',
                          remat: bool = False) -> Generator:
  """The generator of `config.model`.

  Args:
    model: see `configs/base.py`.
    implementations: `config.implementations`.
    remat: `config.train.remat`.

  Raises:
    UserError: a wrong field, or a model with labels.
  """
  if model.get('label_dim'):
    raise UserError(f'the model takes {model.label_dim} labels; training, evaluation and '
                    'inpainting are for models without labels')
  return Generator(
      resolution=_checked_resolution(model), mapping_layers=mapping_layers(model),
      width=model.width, dtype=compute_dtype(model.dtype),
      implementation=_implementation(implementations, remat))


def mapping_layers(model: Mapping[str, Any]) -> int:
  """Depth of the mapping network; that of the released checkpoints if it is None."""
  return RELEASED_MAPPING_LAYERS if model['mapping_layers'] is None else model['mapping_layers']


def discriminator_from_config(model: ml_collections.ConfigDict, implementations: str = 'auto',
                              remat: bool = False) -> Discriminator:
  """The discriminator of `config.model`; arguments as of `generator_from_config`.

  Groups of four neighbours share their minibatch standard deviation, so that the result depends
  neither on the number of devices nor on microbatches.
  """
  return Discriminator(
      resolution=_checked_resolution(model), width=model.width,
      dtype=compute_dtype(model.dtype), implementation=_implementation(implementations, remat),
      minibatch_std_shards=None)


def projected_from_config(config: ml_collections.ConfigDict) -> ProjectedDiscriminator | None:
  """The discriminator on features, None with `train.projected_weight` 0.

  Raises:
    UserError: the model is too small for it.
  """
  if not config.train.projected_weight:
    return None
  if config.model.resolution < MIN_RESOLUTION:
    raise UserError(
        f'train.projected_weight is for models from {MIN_RESOLUTION} px, but '
        f'model.resolution is {config.model.resolution}; set it to 0')
  return ProjectedDiscriminator(dataclasses.replace(
      _implementation(config.implementations, False), dtype=compute_dtype(config.model.dtype)))


def _implementation(implementations: str, remat: bool) -> Implementation:
  if implementations not in ('auto', 'cpu', 'gpu', 'tpu', 'compact'):
    raise UserError(f"implementations is {implementations!r}; choose 'auto', 'cpu', 'gpu', 'tpu' "
                    "or 'compact'")
  platform = None if implementations == 'auto' else implementations
  return dataclasses.replace(for_platform(platform=platform), remat=remat)
