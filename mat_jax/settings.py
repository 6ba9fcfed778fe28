"""The parts of a configuration, read in one place.

`configs/base.py` documents every field. The functions here turn a config into
the modules and the immutable settings that the training step is built from, and
say in one sentence what does not fit together.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from mat_jax.compute import Compute, for_platform
from mat_jax.discriminator import Discriminator
from mat_jax.errors import UserError
from mat_jax.generator import Generator
from mat_jax.sizes import check_resolution

GROUP_SIZE = 4  # images whose standard deviation the discriminator sees


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """Adam and its lazy-regularisation rescaling; see `configs/base.py`."""

  learning_rate: float = 1e-3
  transformer_learning_rate: float | None = None
  beta1: float = 0.0
  beta2: float = 0.99
  epsilon: float = 1e-8
  generator_interval: int = 4
  discriminator_interval: int = 16


@dataclasses.dataclass(frozen=True)
class Training:
  """What the training step needs; see `configs/base.py`."""

  batch_size: int
  r1_gamma: float
  r1_interval: int
  pcp_ratio: float
  l1_weight: float
  style_mixing: float
  truncation_psi: float
  noise_mode: str
  ema_kimg: float
  ema_rampup: float | None
  optimizer: Optimizer


def compute_dtype(name: str) -> Any:
  """'float32', 'bfloat16', or 'auto': bfloat16 on a TPU, else float32."""
  if name == 'auto':
    name = 'bfloat16' if jax.default_backend() == 'tpu' else 'float32'
  if name not in ('float32', 'bfloat16'):
    raise UserError(f"model.dtype is {name!r}; choose 'float32', 'bfloat16' or 'auto'")
  return jnp.dtype(name)


def formulations(model: ml_collections.ConfigDict) -> Compute:
  """The forms of the heavy operations that `model.formulations` names."""
  name = model.get('formulations', 'auto')
  if name not in ('auto', 'cpu', 'gpu', 'tpu'):
    raise UserError(f"model.formulations is {name!r}; choose 'auto', 'cpu', 'gpu' or 'tpu'")
  return for_platform(platform=None if name == 'auto' else name)


def _checked_resolution(model: ml_collections.ConfigDict) -> int:
  try:
    check_resolution(model.resolution)
  except ValueError as error:
    raise UserError(f'model.{error}; choose 64, 128, 256 or 512') from error
  return model.resolution


def generator_from_config(model: ml_collections.ConfigDict) -> Generator:
  """The generator of `config.model`; UserError for one with labels."""
  if model.get('label_dim'):
    raise UserError(f'the model takes {model.label_dim} labels; training, evaluation and '
                    'inpainting are for models without labels')
  return Generator(
      resolution=_checked_resolution(model), mapping_layers=model.mapping_layers,
      width=model.width, dtype=compute_dtype(model.dtype), compute=formulations(model))


def discriminator_from_config(model: ml_collections.ConfigDict, batch_size: int) -> Discriminator:
  """The discriminator of `config.model` for a global batch.

  Groups of four neighbours share their standard deviation, so that the result
  does not depend on the number of devices.
  """
  if batch_size > GROUP_SIZE and batch_size % GROUP_SIZE:
    raise UserError(f'train.batch_size is {batch_size}; choose a multiple of {GROUP_SIZE}, or '
                    f'less than {GROUP_SIZE}, for the minibatch standard deviation')
  return Discriminator(
      resolution=_checked_resolution(model), width=model.width,
      dtype=compute_dtype(model.dtype), compute=formulations(model),
      minibatch_std_shards=max(1, batch_size // GROUP_SIZE))


def training_from_config(config: ml_collections.ConfigDict) -> Training:
  """The settings of the training step in `config.train` and `config.optimizer`."""
  fields = {field.name: config.train[field.name] for field in dataclasses.fields(Training)
            if field.name != 'optimizer'}
  return Training(**fields, optimizer=Optimizer(**config.optimizer))
