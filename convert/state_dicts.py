"""Flax variables of MAT's networks from the arrays of a PyTorch state dict, and back.

A state dict has to be complete: every parameter that the network needs, in its shape, and
nothing that it lacks.
"""

from collections.abc import Callable, Collection, Mapping
import functools
import re
from typing import Any

from absl import logging
from flax import traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from convert import names
from convert.architecture import StateDict, discriminator_from, generator_from
from mat_jax.errors import UserError
from mat_jax.nn import first_stage, sizes
from mat_jax.nn.discriminator import Discriminator
from mat_jax.nn.generator import Generator
from mat_jax.nn.transformer import shift_mask
from mat_jax.ops import resample

Tree = dict[str, Any]
Module = Generator | Discriminator

# Buffers that the architecture determines; a file may have them or not.
_DERIVABLE = re.compile(r'(^|\.)(resample_filter|attn_mask)$')
_FLOATS = frozenset(map(np.dtype, (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)))


def generator_variables(state_dict: StateDict) -> Tree:
  """Flax variables of the generator that a state dict holds.

  Resolution, label size, mapping depth and width are read off the arrays. A
  state dict without any noise tensor (IOPaint's) gets noise of strength 0.

  Args:
    state_dict: PyTorch name -> array, with or without derivable buffers.

  Returns:
    {'params': ..., 'buffers': ...} for `generator_from`'s module, float32.

  Raises:
    UserError: a parameter is missing, left over or misshapen.
  """
  module = generator_from(state_dict)
  return _fill(
      module, state_dict, lambda path: names.generator_name(path, module.resolution),
      f'a generator of {module.resolution} px with {module.mapping_layers} mapping layers')


def discriminator_variables(state_dict: StateDict) -> Tree:
  """Flax variables of the discriminator; as `generator_variables`."""
  module = discriminator_from(state_dict)
  return _fill(
      module, state_dict, lambda path: names.discriminator_name(path, module.resolution),
      f'a discriminator of {module.resolution} px')


@functools.lru_cache(maxsize=16)
def variable_shapes(module: Module) -> Tree:
  """Shapes of the module's variables; not to be changed."""
  side = module.resolution
  image, mask = (jax.ShapeDtypeStruct((1, side, side, n), jnp.float32) for n in (3, 1))
  third = image  # the stage-one image, or the latent
  if isinstance(module, Generator):
    third = jax.ShapeDtypeStruct((1, 512), jnp.float32)
  labels = jax.ShapeDtypeStruct((1, module.label_dim), jnp.float32) if module.label_dim else None
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(module.init, key, image, mask, third, labels)


def _fill(module: Module, state_dict: StateDict, name_of: Callable[[str], str],
          kind: str) -> Tree:
  """The variables of `module` with the arrays of `state_dict`, checked to be complete."""
  flat = traverse_util.flatten_dict(variable_shapes(module))
  named = {name_of('/'.join(path[1:])): path for path in flat}
  noise = [name for name in named if name.endswith(names.NOISE)]
  if noise and not any(name in state_dict for name in noise):
    logging.warning('The file has no noise tensors: converted with noise of strength 0.')
    state_dict = {**state_dict, **{
        name: np.zeros(flat[named[name]].shape, np.float32) for name in noise}}
  _check_names(named, state_dict, kind)
  modulated = names.modulated_modules(flat)
  return traverse_util.unflatten_dict({
      path: _checked(name, state_dict[name], flat[path].shape, path[-1], path[:-1] in modulated)
      for name, path in named.items()})


def _check_names(wanted: Collection[str], state_dict: StateDict, kind: str) -> None:
  """Raises UserError for missing and for left over parameters."""
  missing = [name for name in wanted if name not in state_dict]
  if missing:
    raise UserError(f'{kind} needs {_listed(missing)}, which the file lacks')
  derivable = [name for name in state_dict if _DERIVABLE.search(name)]
  extra = sorted(set(state_dict) - set(wanted) - set(derivable))
  if extra:
    raise UserError(f'the file has {_listed(extra)}, which {kind} lacks')
  for name in derivable:
    fir = state_dict[name]
    if name.endswith('resample_filter') and not np.array_equal(fir, resample.fir_filter()):
      logging.warning("%s is not MAT's filter; the network here uses MAT's.", name)
      return


def _listed(found: list[str]) -> str:
  return found[0] + (f' and {len(found) - 1} more' if len(found) > 1 else '')


def _checked(name: str, value: np.ndarray, shape: tuple[int, ...], leaf: str,
             modulated: bool) -> np.ndarray:
  """`value` in our layout and float32; UserError when its shape or type is another."""
  reference = names.to_published_layout(np.broadcast_to(np.float32(0), shape), leaf, modulated)
  if reference.shape == () and value.shape == (1,):
    value = value[0]  # some writers have no scalars
  if value.shape != reference.shape:
    raise UserError(f'{name} has shape {value.shape}, the network needs {reference.shape}')
  if value.dtype not in _FLOATS:
    raise UserError(f'{name} holds {value.dtype}, the network needs floating-point numbers')
  return np.array(names.to_our_layout(value, leaf, modulated), np.float32, order='C')


def generator_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The state dict of a generator, derivable buffers included.

  Args:
    variables: {'params': ..., 'buffers': ...}.

  Returns:
    PyTorch name -> C-contiguous float32 array of its own.
  """
  resolution = _resolution(variables['params']['synthesis']['enc'])
  state_dict = _state_dict(variables, lambda path: names.generator_name(path, resolution))
  state_dict.update(_attention_masks(resolution))
  return state_dict


def discriminator_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The state dict of a discriminator; as `generator_state_dict`."""
  resolution = _resolution(variables['params']['dis'])
  return _state_dict(variables, lambda path: names.discriminator_name(path, resolution))


def _resolution(blocks: Mapping[str, Any]) -> int:
  return max(int(name.removeprefix('block_')) for name in blocks if name.startswith('block_'))


def _state_dict(variables: Mapping[str, Any],
                name_of: Callable[[str], str]) -> dict[str, np.ndarray]:
  flat = traverse_util.flatten_dict(variables)
  modulated = names.modulated_modules(flat)
  state_dict = {}
  for path, leaf in flat.items():
    name = name_of('/'.join(path[1:]))
    value = names.to_published_layout(np.asarray(leaf), path[-1], path[:-1] in modulated)
    state_dict[name] = np.array(value, np.float32, order='C')
    # Every convolution has the filter, whether it resamples or not, and ToRGB for its image.
    if value.ndim >= 4 or path[-2:] == ('toRGB', 'bias'):
      state_dict[name.rpartition('.')[0] + '.resample_filter'] = resample.fir_filter()
  return state_dict


def _attention_masks(resolution: int) -> dict[str, np.ndarray]:
  """The attention masks of the shifted windows of stage one, by their PyTorch names."""
  masks = {}
  stages = zip(first_stage.STAGE_DEPTHS, first_stage.STAGE_WINDOWS, strict=True)
  for stage, (depth, window) in enumerate(stages):
    side = sizes.token_grid(resolution) >> (2 - abs(stage - 2))
    if side > window:  # one window that covers the map is not shifted
      mask = shift_mask(side, side, window, window // 2)
      for block in range(1, depth, 2):
        masks[f'synthesis.first_stage.tran.{stage}.blocks.{block}.attn_mask'] = mask
  return masks
