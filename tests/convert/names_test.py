"""The table of names, held against the published networks' manifests."""

from flax import traverse_util
import jax
import numpy as np
import pytest

from convert import names, state_dicts, to_torch
from mat_jax import Discriminator, Generator
from tests.support import reference

NETWORKS = {
    'generator': (state_dicts.generator_variables, to_torch.generator_state_dict),
    'discriminator': (state_dicts.discriminator_variables, to_torch.discriminator_state_dict)}


@pytest.mark.parametrize('resolution', [256, 512])
@pytest.mark.parametrize('network', NETWORKS)
def test_both_directions_give_the_manifest(network, resolution):
  manifest = reference.load(f'manifest_{resolution}.json')[network]
  shapes = {**manifest['parameters'], **manifest['buffers']}
  there, back = NETWORKS[network]
  variables = there({name: np.broadcast_to(np.float32(0), shape)
                     for name, shape in shapes.items()})
  params = jax.tree.leaves(variables['params'])
  assert len(params) == len(manifest['parameters'])
  assert {name: list(array.shape) for name, array in back(variables).items()} == shapes


@pytest.mark.parametrize('module,name_of', [
    (Generator(64, label_dim=3, mapping_layers=11, width=0.25), names.generator_name),
    (Generator(1024, width=0.125), names.generator_name),
    (Discriminator(64, label_dim=3, width=0.25), names.discriminator_name),
    (Discriminator(1024, width=0.125), names.discriminator_name)])
def test_no_two_paths_share_a_name(module, name_of):
  paths = traverse_util.flatten_dict(state_dicts.variable_shapes(module))
  found = {name_of('/'.join(path[1:]), module.resolution) for path in paths}
  assert len(found) == len(paths)
  assert not any(part in name for name in found for part in ('/', 'kernel', 'block_', '_0.'))


def test_layouts():
  value = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
  stored = names.to_published_layout(value, 'kernel', modulated=False)
  assert stored.shape == (7, 5, 2, 3) and stored[6, 4, 1, 2] == value[1, 2, 4, 6]
  modulated = names.to_published_layout(value, 'kernel', modulated=True)
  np.testing.assert_array_equal(modulated[0], stored)
  dense = names.to_published_layout(value[0, 0], 'kernel', modulated=False)
  assert dense.shape == (7, 5)
  np.testing.assert_array_equal(names.to_published_layout(value, 'noise_const', False), value)
  for array, is_modulated in ((stored, False), (modulated, True)):
    np.testing.assert_array_equal(names.to_our_layout(array, 'kernel', is_modulated), value)
