"""Variables from state dicts: exact, and whatever does not fit is named."""

import re

from flax import traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest

from convert import architecture, names, state_dicts, to_torch
from mat_jax import Discriminator, Generator
from mat_jax.errors import UserError
from tests.support import torch_files as files
from tests.support.torch_networks import (
  DISCRIMINATOR,
  GENERATOR,
  assert_same_tree,
  state_dict,
  variables_of,
)

_WEIGHT = 'synthesis.enc.EncConv_Block_64x64.conv1.weight'
_STRENGTH = 'synthesis.dec.Dec_32x32.conv0.noise_strength'
_DECIDING = 'synthesis.enc.EncConv_Block_16x16.conv1.bias'  # one of those that tell the width


@pytest.mark.parametrize('module', [
    GENERATOR, DISCRIMINATOR, Generator(128, label_dim=3, mapping_layers=3, width=0.0625),
    Discriminator(128, label_dim=3, width=0.0625)], ids=lambda module: repr(module)[:30])
def test_round_trip_is_exact(module):
  values = state_dict(module)
  variables = variables_of(module, values)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(variables))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(
      lambda x: x.shape, state_dicts.variable_shapes(module))
  back = to_torch.generator_state_dict(variables) if isinstance(module, Generator) else (
      to_torch.discriminator_state_dict(variables))
  files.assert_same({name: back[name] for name in values}, values)
  assert len(back) == len(values)


def test_values_arrive_where_they_belong():
  values = state_dict(GENERATOR)
  synthesis = variables_of(GENERATOR, values)['params']['synthesis']
  kernel = synthesis['enc']['block_64']['conv1']['kernel']
  assert kernel[2, 0, 1, 3] == values[_WEIGHT][3, 1, 2, 0]
  kernel = synthesis['dec']['block_32']['conv0']['conv']['kernel']
  assert kernel[2, 0, 1, 3] == values['synthesis.dec.Dec_32x32.conv0.conv.weight'][0, 3, 1, 2, 0]
  assert synthesis['dec']['block_32']['conv0']['noise_strength'] == values[_STRENGTH]
  kernel = synthesis['first_stage']['tran_1']['blocks_2']['fuse']['kernel']
  np.testing.assert_array_equal(
      kernel.T, values['synthesis.first_stage.tran.1.blocks.2.fuse.weight'])
  values = state_dict(DISCRIMINATOR)
  stage1 = variables_of(DISCRIMINATOR, values)['params']['dis_stage1']
  np.testing.assert_array_equal(stage1['fc0']['kernel'].T, values['fc0_stg1.weight'])
  np.testing.assert_array_equal(stage1['block_16']['conv1']['bias'],
                                values['Dis_stg1.3.conv1.bias'])


@pytest.mark.parametrize('resolution,width', [
    (64, 0.0625), (64, 0.1), (256, 1.0), (256, 0.3), (512, 0.35)])
def test_sizes_are_read_off(resolution, width):
  for module, read in ((Generator(resolution, 5, 4, width), architecture.generator_from),
                       (Discriminator(resolution, 5, width), architecture.discriminator_from)):
    shapes = state_dicts.variable_shapes(module)
    values = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    assert read(_named(module, values)) == module


def _named(module, values):
  """Names and shapes as `to_torch` gives them, without its copies."""
  name_of = names.generator_name if isinstance(module, Generator) else names.discriminator_name
  flat = traverse_util.flatten_dict(values)
  return {name_of('/'.join(path[1:]), module.resolution):
          names.to_published_layout(value, path[-1], False) for path, value in flat.items()}


def test_derivable_buffers_may_be_missing_or_extra():
  values = state_dict(GENERATOR)
  few = {name: array for name, array in values.items()
         if not name.endswith(('resample_filter', 'attn_mask'))}
  assert len(few) < len(values)
  many = {**values, 'synthesis.first_stage.tran.2.blocks.1.attn_mask': np.zeros((1, 4, 4)),
          'resample_filter': values['synthesis.to_style.conv.0.resample_filter']}
  assert_same_tree(variables_of(GENERATOR, few), variables_of(GENERATOR, many))


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_become_float32(dtype):
  values = {name: array.astype(dtype) for name, array in state_dict(GENERATOR).items()}
  want = {name: array.astype(np.float32) for name, array in values.items()}
  assert_same_tree(variables_of(GENERATOR, values), variables_of(GENERATOR, want))


def test_scalars_may_have_one_dimension():
  values = state_dict(GENERATOR)
  want = variables_of(GENERATOR, values)
  scalars = {name for name, array in values.items() if array.shape == ()}
  assert _STRENGTH in scalars
  longer = {name: array.reshape(1) if name in scalars else array
            for name, array in values.items()}
  assert_same_tree(variables_of(GENERATOR, longer), want)
  for name, shape in ((_STRENGTH, (1, 1)), ('mapping.w_avg', (1, 512)),
                      ('mapping.fc0.bias', (512, 1))):
    with pytest.raises(UserError, match=re.escape(f'{name} has shape {shape}')):
      variables_of(GENERATOR, {**values, name: values[name].reshape(shape)})


@pytest.mark.parametrize('module', [GENERATOR, DISCRIMINATOR])
def test_every_missing_parameter_is_named(module):
  values = state_dict(module)
  for name in list(values)[::7]:
    if name.endswith(('resample_filter', 'attn_mask')):
      continue
    with pytest.raises(UserError, match=re.escape(name)):
      variables_of(module, {key: value for key, value in values.items() if key != name})


@pytest.mark.parametrize('name', [_WEIGHT, _STRENGTH, _DECIDING, 'mapping.fc1.weight',
                                  'mapping.w_avg', 'synthesis.dec.Dec_64x64.toRGB.conv.weight'])
def test_a_misshapen_parameter_is_named(name):
  values = state_dict(GENERATOR)
  for array in (np.zeros((*values[name].shape, 2), np.float32), np.zeros((3, 2), np.float32),
                np.zeros((4,), np.float32)):
    with pytest.raises(UserError, match=re.escape(f'{name} has shape {array.shape}')):
      variables_of(GENERATOR, {**values, name: array})


@pytest.mark.parametrize('module,change,message', [
    (GENERATOR, {'synthesis.extra.weight': np.zeros(3)}, 'has synthesis.extra.weight, which a '),
    (GENERATOR, {'mapping.fc2.weight': np.zeros((512, 512))}, 'needs mapping.fc2.bias'),
    (GENERATOR, {'a': np.zeros(3), 'b': np.zeros(3)}, 'has a and 1 more, which a generator of 64'),
    (GENERATOR, {_WEIGHT: np.zeros((32, 32, 3, 3), np.int32)}, f'{_WEIGHT} holds int32'),
    (GENERATOR, {'synthesis.enc.EncConv_Block_96x96.conv0.bias': np.zeros(32)}, 'resolution 96'),
    (GENERATOR, {'mapping.embed.weight': np.zeros(32)}, r'embed.weight has shape \(32,\)'),
    (DISCRIMINATOR, {'Dis.50.bias': np.zeros(32)}, 'more than 4096'),
    (DISCRIMINATOR, {'fc2.bias': np.zeros(32)}, 'has fc2.bias, which a discriminator of 64 px')])
def test_what_does_not_belong_is_named(module, change, message):
  with pytest.raises(UserError, match=message):
    variables_of(module, {**state_dict(module), **change})


def test_networks_are_not_confused():
  with pytest.raises(UserError, match='no MAT generator'):
    state_dicts.generator_variables(state_dict(DISCRIMINATOR))
  with pytest.raises(UserError, match='no MAT discriminator'):
    state_dicts.discriminator_variables(state_dict(GENERATOR))


def test_without_noise_tensors(caplog):
  values = state_dict(GENERATOR)
  noise = {name for name in values if name.endswith(('noise_const', 'noise_strength'))}
  quiet = {name: array for name, array in values.items() if name not in noise}
  zeros = {name: np.zeros_like(values[name]) for name in noise}
  assert_same_tree(variables_of(GENERATOR, quiet), variables_of(GENERATOR, {**values, **zeros}))
  assert 'noise of strength 0' in caplog.text
  # Some of them missing is a damaged file.
  with pytest.raises(UserError, match=f'needs {_STRENGTH}, which'):
    variables_of(GENERATOR, {name: value for name, value in values.items() if name != _STRENGTH})


def test_another_filter_is_noticed(caplog):
  name = 'synthesis.to_style.conv.0.resample_filter'
  variables_of(GENERATOR, {**state_dict(GENERATOR), name: np.ones((2, 2), np.float32)})
  assert name in caplog.text
