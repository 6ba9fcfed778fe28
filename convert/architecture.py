"""Which network a state dict belongs to, read off its names and shapes."""

from collections.abc import Iterable, Mapping, Sequence
import re
import statistics

import numpy as np

from convert.torch_files import limits
from mat_jax.errors import UserError
from mat_jax.nn import sizes
from mat_jax.nn.discriminator import Discriminator
from mat_jax.nn.generator import Generator

StateDict = Mapping[str, np.ndarray]

_FULL_WIDTH = sizes.channels(4)

# Channels of a layer with the side of its map, None in stage one.
_Observed = Sequence[tuple[int | None, int]]


def generator_from(state_dict: StateDict) -> Generator:
  """The module whose variables a state dict holds.

  Args:
    state_dict: PyTorch name -> array.

  Returns:
    The generator; resolution, label size, mapping depth and width are those of
    the arrays. Where arrays contradict each other, most of them count.

  Raises:
    UserError: it holds no generator.
  """
  blocks = [(int(match[1]), len(array)) for match, array in _biases(
      state_dict, r'synthesis\.enc\.EncConv_Block_(\d{1,4})x\d+\.conv[01]\.bias')]
  if not blocks:
    raise UserError('there are no synthesis.enc.* parameters, so this is no MAT generator')
  stage1 = [(None, len(array)) for _, array in _biases(
      state_dict,
      r'synthesis\.first_stage\.(conv_first|enc_conv\.\d+|tran\.\d+\.conv)\.conv\.bias')]
  layers = {match[1] for name in state_dict if (match := re.match(r'mapping\.fc(\d+)\.', name))}
  if len(layers) > limits.MAPPING_LAYERS:
    raise UserError(f'the names are those of a network of {len(layers)} mapping layers, more than '
                    f'{limits.MAPPING_LAYERS}')
  return Generator(
      resolution=_resolution(max(side for side, _ in blocks)), label_dim=_label_dim(state_dict),
      mapping_layers=len(layers), width=_width([*blocks, *stage1]))


def discriminator_from(state_dict: StateDict) -> Discriminator:
  """The module whose variables a state dict holds; as `generator_from`."""
  indices = [int(match[1]) for name in state_dict
             if (match := re.match(r'Dis\.(\d{1,2})\.', name))]
  if not indices:
    raise UserError('there are no Dis.* parameters, so this is no MAT discriminator')
  resolution = _resolution(2**max(indices))
  blocks = [(resolution >> int(match[1]), len(array)) for match, array in _biases(
      state_dict, r'Dis\.(\d{1,2})\.conv1\.bias')]
  blocks += [(4, len(array)) for _, array in _biases(state_dict, r'fc0\.bias')]
  return Discriminator(resolution=resolution, label_dim=_label_dim(state_dict),
                       width=_width(blocks))


def _biases(state_dict: StateDict, pattern: str) -> Iterable[tuple[re.Match[str], np.ndarray]]:
  for name, array in state_dict.items():
    if (match := re.fullmatch(pattern, name)) and array.ndim == 1:
      yield match, array


def _resolution(side: int) -> int:
  try:
    sizes.check_resolution(side)
  except ValueError as error:
    raise UserError(f'the names are those of a network of {error}') from error
  if side > limits.RESOLUTION:
    raise UserError(f'the names are those of a network of resolution {side}, more than '
                    f'{limits.RESOLUTION}')
  return side


def _label_dim(state_dict: StateDict) -> int:
  embed = state_dict.get('mapping.embed.weight')
  if embed is None:
    return 0
  if embed.ndim != 2:
    raise UserError(f'mapping.embed.weight has shape {embed.shape}, which has to be two numbers')
  return embed.shape[1]


def _width(observed: _Observed) -> float:
  """The roundest width multiplier that gives the channels of most layers.

  Several widths give the same network, since channels are rounded; a config
  names 0.25 or 0.3, not 0.30078125.
  """
  lowest = [found for side, found in observed if side is not None and side <= 64]
  estimate = statistics.mode(lowest or [_FULL_WIDTH]) / _FULL_WIDTH

  def agreement(width: float) -> int:
    return sum(found == (sizes.stage1_channels(width) if side is None
                         else sizes.channels(side, width)) for side, found in observed)

  candidates = [(round(estimate * parts) + step) / parts
                for parts in (64, 10, 100, 1000) for step in (0, -1, 1)]
  return max([width for width in candidates if width > 0] + [estimate], key=agreement)
