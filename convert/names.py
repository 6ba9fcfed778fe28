"""One table between the parameter paths here and the names in PyTorch checkpoints.

The table leads from a path of ours ('synthesis/enc/block_256/conv0/kernel') to
the published name; reading a checkpoint walks our own tree and looks every name
up, so both directions and every resolution, label size and depth share it.
"""

from collections.abc import Iterable
import re

import numpy as np

# Ends of the tensors that IOPaint's network lacks.
NOISE = ('.noise_const', '.noise_strength')

# Pattern of our path -> published spelling, applied in order.
_GENERATOR_RULES = (
    (r'/downsample/conv/', '/downsample/conv/conv/'),
    (r'\benc/block_(\d+)', r'enc/EncConv_Block_\1x\1'),
    (r'\bdec/block_(\d+)', r'dec/Dec_\1x\1'),
    (r'\b(tran|blocks|enc_conv|dec_conv|down_conv|conv)_(\d+)', r'\1/\2'),
    (r'/kernel$', '/weight'),
)
_DISCRIMINATOR_RULES = (
    (r'^dis/(fc\d)/', r'\1/'),
    (r'^dis_stage1/(fc\d)/', r'\1_stg1/'),
    (r'^dis_stage1/', 'Dis_stg1/'),
    (r'^dis/', 'Dis/'),
    (r'/from_rgb/', '/0/conv/'),
    (r'/kernel$', '/weight'),
)


def generator_name(path: str, resolution: int) -> str:
  """Published name of a generator parameter or buffer.

  Args:
    path: 'module/.../leaf' without the collection.
    resolution: native resolution of the network.

  Returns:
    The dotted PyTorch name.
  """
  del resolution  # The generator's names do not count from the resolution.
  return _apply(_GENERATOR_RULES, path)


def discriminator_name(path: str, resolution: int) -> str:
  """Published name of a discriminator parameter; arguments as `generator_name`."""
  # The published branches are sequences that count down from the full size.
  def index(side: int) -> int:
    return (resolution // side).bit_length()

  path = re.sub(r'/block_(\d+)/', lambda match: f'/{index(int(match[1]))}/', path)
  path = re.sub(r'^(dis|dis_stage1)/conv/', rf'\1/{resolution.bit_length() - 1}/', path)
  return _apply(_DISCRIMINATOR_RULES, path)


def _apply(rules: tuple[tuple[str, str], ...], path: str) -> str:
  for pattern, replacement in rules:
    path = re.sub(pattern, replacement, path)
  return path.replace('/', '.')


Path = tuple[str, ...]


def modulated_modules(paths: Iterable[Path]) -> set[Path]:
  """Modules (paths without their leaf) whose kernel belongs to a modulated convolution.

  Args:
    paths: (collection, module, ..., leaf) of all variables of a network.
  """
  return {path[:-2] for path in paths if path[-2] == 'affine'}


def to_published_layout(value: np.ndarray, leaf: str, modulated: bool) -> np.ndarray:
  """An array of ours as PyTorch stores it.

  Args:
    value: a parameter or buffer.
    leaf: last part of its path; only a 'kernel' changes its layout.
    modulated: whether the kernel belongs to a modulated convolution.

  Returns:
    [in, out] -> [out, in]; HWIO -> OIHW, modulated kernels with a leading 1.
  """
  if leaf != 'kernel':
    return value
  if value.ndim == 2:
    return value.T
  value = value.transpose(3, 2, 0, 1)
  return value[None] if modulated else value


def to_our_layout(value: np.ndarray, leaf: str, modulated: bool) -> np.ndarray:
  """Inverse of `to_published_layout`."""
  if leaf != 'kernel':
    return value
  if modulated:
    value = value[0]
  return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
