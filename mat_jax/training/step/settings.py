"""The settings of the training step, read from a configuration in one place.

`configs/base.py` documents every field. The functions here turn a config into the immutable
settings of the step, and report inconsistent fields in one sentence.
"""

import dataclasses
from typing import Any

import ml_collections

from mat_jax.errors import UserError
from mat_jax.nn.discriminator import first_blocks
from mat_jax.nn.model_config import GROUP_SIZE
from mat_jax.training.step.augment import Pipeline


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
class Augmentation:
  """Adaptive discriminator augmentation; see `configs/base.py`.

  Attributes:
    pipeline: the transforms; None for no augmentation.
    probability: at the start of the run.
    target: of the mean sign of real logits.
    kimg: thousand images in which the probability can change from 0 to 1, or inf.
    interval: steps between two updates of the probability.
    max_probability: its upper bound.
  """

  pipeline: Pipeline | None = None
  probability: float = 0.0
  target: float = 0.6
  kimg: float = 500.0
  interval: int = 4
  max_probability: float = 0.8


@dataclasses.dataclass(frozen=True)
class Training:
  """The settings of the training step; see `configs/base.py`.

  Attributes not described there:
    microbatch: images whose gradients are computed at a time, over all devices.
    frozen_d_modules: of each branch of the discriminator.
  """

  batch_size: int
  microbatch: int
  adversarial_weight: float
  adversarial_stage1_weight: float
  r1_gamma: float
  r1_interval: int
  pcp_ratio: float
  l1_weight: float
  lpips_weight: float
  feature_downsample: int
  projected_weight: float
  lecam_weight: float
  style_mixing: float
  truncation_psi: float
  noise_mode: str
  ema_kimg: float
  ema_rampup: float | None
  frozen_d_modules: tuple[str, ...]
  optimizer: Optimizer
  augmentation: Augmentation

  @property
  def is_adversarial(self) -> bool:
    """Whether a discriminator is trained."""
    return bool(self.adversarial_weight or self.adversarial_stage1_weight
                or self.projected_weight)


AUTO = 'auto'


def microbatch(config: ml_collections.ConfigDict) -> int:
  """`train.microbatch`, the whole batch for 'auto'; UserError for one that is not possible."""
  train = config.train
  if train.batch_size > GROUP_SIZE and train.batch_size % GROUP_SIZE:
    raise UserError(f'train.batch_size is {train.batch_size}; choose a multiple of {GROUP_SIZE}, '
                    f'or less than {GROUP_SIZE}, for the minibatch standard deviation')
  size = train.batch_size if train.microbatch == AUTO else train.microbatch
  if not isinstance(size, int):
    raise UserError(f"train.microbatch is {size!r}; give a number of images, or 'auto'")
  if size < 1 or train.batch_size % size:
    raise UserError(f'train.microbatch is {size}, which does not divide train.batch_size '
                    f'{train.batch_size}')
  if size < train.batch_size and size % GROUP_SIZE:
    raise UserError(f'train.microbatch is {size}; choose a multiple of {GROUP_SIZE}, for the '
                    'groups of the minibatch standard deviation')
  return size


def training_from_config(config: ml_collections.ConfigDict) -> Training:
  """The settings of the training step in `config.train`, `.augment` and `.optimizer`."""
  derived: dict[str, Any] = {
      'microbatch': microbatch(config), 'r1_gamma': r1_gamma(config),
      'frozen_d_modules': _frozen_d_modules(config),
      'optimizer': Optimizer(**config.optimizer), 'augmentation': _augmentation(config.augment)}
  fields = {field.name: config.train[field.name] for field in dataclasses.fields(Training)
            if field.name not in derived}
  return Training(**fields, **derived)


def r1_gamma(config: ml_collections.ConfigDict) -> float:
  """`train.r1_gamma`, or if negative StyleGAN2-ADA's heuristic (arXiv 2006.06676, appendix C).

  0.0002 * resolution^2 / batch size: 1.6384 at 256 px with 8 images, half of that with 16.
  """
  if config.train.r1_gamma >= 0:
    return config.train.r1_gamma
  return 0.0002 * config.model.resolution**2 / config.train.batch_size


def _frozen_d_modules(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  try:
    return first_blocks(config.model.resolution, config.train.freeze_d_blocks)
  except ValueError as error:
    raise UserError(f'train.freeze_d_blocks is {config.train.freeze_d_blocks}, and {error}'
                    ) from error


def _augmentation(options: ml_collections.ConfigDict) -> Augmentation:
  for field in ('probability', 'max_probability'):
    if not 0 <= options[field] <= 1:
      raise UserError(f'augment.{field} is {options[field]}; give a number from 0 to 1')
  for field in ('kimg', 'interval'):
    if options[field] <= 0:
      raise UserError(f'augment.{field} is {options[field]}; give a positive number')
  pipeline = Pipeline.from_letters(options.pipeline) if options.pipeline else None
  return Augmentation(**{**options, 'pipeline': pipeline})
