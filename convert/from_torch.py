"""PyTorch MAT checkpoints to Flax variables."""

from collections.abc import Mapping
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from convert import names
from mat_jax.discriminator import Discriminator
from mat_jax.errors import UserError
from mat_jax.generator import Generator

StateDict = Mapping[str, np.ndarray]

# Buffers that the architecture determines; a file may have them or not.
_DERIVABLE = re.compile(r'(^|\.)(resample_filter|attn_mask)$')
# The layer of 512 channels at full width that fixes the width multiplier.
_GENERATOR_WIDTH = 'synthesis.enc.EncConv_Block_16x16.conv1.bias'
_DISCRIMINATOR_WIDTH = 'fc0.bias'


def generator_variables(state_dict: StateDict) -> dict[str, Any]:
  """Flax variables of the generator that a state dict holds.

  Resolution, label size, mapping depth and width are read off the arrays.

  Args:
    state_dict: published name -> array, with or without derivable buffers.

  Returns:
    {'params': ..., 'buffers': ...} for `generator_from`'s module, float32.

  Raises:
    UserError: a parameter is missing, left over or misshapen.
  """
  module = generator_from(state_dict)
  return _fill(_generator_shapes(module), state_dict, names.generator_name, module.resolution)


def discriminator_variables(state_dict: StateDict) -> dict[str, Any]:
  """Flax variables of the discriminator; as `generator_variables`."""
  module = discriminator_from(state_dict)
  return _fill(_discriminator_shapes(module), state_dict, names.discriminator_name,
               module.resolution)


def generator_from(state_dict: StateDict) -> Generator:
  """The module whose variables `state_dict` holds."""
  sides = [int(match[1]) for name in state_dict
           if (match := re.match(r'synthesis\.enc\.EncConv_Block_(\d+)x', name))]
  if not sides:
    raise UserError('the state dict has no synthesis.enc.* parameters, so it is no MAT generator')
  return Generator(
      resolution=max(sides), label_dim=_label_dim(state_dict),
      mapping_layers=sum(bool(re.fullmatch(r'mapping\.fc\d+\.weight', n)) for n in state_dict),
      width=_width(state_dict, _GENERATOR_WIDTH))


def discriminator_from(state_dict: StateDict) -> Discriminator:
  """The module whose variables `state_dict` holds."""
  indices = [int(match[1]) for name in state_dict if (match := re.match(r'Dis\.(\d+)\.', name))]
  if not indices:
    raise UserError('the state dict has no Dis.* parameters, so it is no MAT discriminator')
  return Discriminator(resolution=2**max(indices), label_dim=_label_dim(state_dict),
                       width=_width(state_dict, _DISCRIMINATOR_WIDTH))


def _label_dim(state_dict: StateDict) -> int:
  embed = state_dict.get('mapping.embed.weight')
  return 0 if embed is None else embed.shape[1]


def _width(state_dict: StateDict, name: str) -> float:
  if name not in state_dict:
    raise UserError(f'the state dict lacks the parameter {name}')
  return state_dict[name].shape[0] / 512


def _generator_shapes(module: Generator) -> dict[str, Any]:
  side = module.resolution
  image, mask, z = (jax.ShapeDtypeStruct(s, jnp.float32)
                    for s in ((1, side, side, 3), (1, side, side, 1), (1, 512)))
  labels = jax.ShapeDtypeStruct((1, module.label_dim), jnp.float32) if module.label_dim else None
  return jax.eval_shape(module.init, jax.random.key(0), image, mask, z, labels)


def _discriminator_shapes(module: Discriminator) -> dict[str, Any]:
  side = module.resolution
  image, mask = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, side, side, 3),
                                                                (1, side, side, 1)))
  labels = jax.ShapeDtypeStruct((1, module.label_dim), jnp.float32) if module.label_dim else None
  return jax.eval_shape(module.init, jax.random.key(0), image, mask, image, labels)


def _fill(shapes: dict[str, Any], state_dict: StateDict, name_of: names.NameFunction,
          resolution: int) -> dict[str, Any]:
  """The tree of `shapes` with the arrays of `state_dict`, checked to be complete."""
  flat = traverse_util.flatten_dict(shapes)
  modulated = {path[:-2] for path in flat if path[-2] == 'affine'}
  left = {name for name in state_dict if not _DERIVABLE.search(name)}
  filled = {}
  for path, expected in flat.items():
    name = name_of('/'.join(path[1:]), resolution)
    if name not in state_dict:
      raise UserError(f'the state dict lacks the parameter {name}')
    left.discard(name)
    filled[path] = _checked(name, state_dict[name], expected.shape, path[-1],
                            path[:-1] in modulated)
  if left:
    raise UserError(f'the state dict has {len(left)} parameters that the network lacks, '
                    f'the first is {min(left)}')
  return traverse_util.unflatten_dict(filled)


def _checked(name: str, value: np.ndarray, shape: tuple[int, ...], leaf: str,
             modulated: bool) -> np.ndarray:
  """`value` in our layout and float32; UserError when its shape is another one."""
  reference = names.to_published_layout(np.broadcast_to(np.float32(0), shape), leaf, modulated)
  if value.shape != reference.shape:
    raise UserError(f'{name} has shape {value.shape}, the network needs {reference.shape}')
  return np.array(names.to_our_layout(value, leaf, modulated), np.float32, order='C')
