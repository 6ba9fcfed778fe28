import os
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import pack
from mat_jax.checkpoints import packed, reader
from mat_jax.errors import UserError
from mat_jax.training import start


@pytest.fixture(scope='module')
def file(trained, tmp_path_factory):
  """The model of the trained run, packed."""
  path = str(tmp_path_factory.mktemp('packed') / 'model.safetensors')
  pack.pack(trained[0], path)
  return path


def test_a_packed_model_is_the_averaged_generator_and_the_discriminator(trained, file):
  expected, found = reader.restore_ema(trained[0]), reader.restore_ema(file)
  assert found.model == expected.model and found.images_seen == expected.images_seen
  assert found.path == file
  _assert_rounded(found.variables, expected.variables)
  networks, original = (reader.restore_networks(path).networks for path in (file, trained[0]))
  assert networks.keys() == original.keys()
  _assert_rounded(networks['d_params'], original['d_params'])
  _assert_rounded(networks['g_params'], expected.variables['params'])
  assert set(reader.restore_networks(file, ('d_params',)).networks) == {'d_params'}


def _assert_rounded(found, expected):
  def check(a, b):
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, np.asarray(b).astype(np.float16).astype(np.float32))

  jax.tree.map(check, found, expected)


def test_a_run_starts_from_a_packed_model(trained, file, tmp_path):
  config = trained[1].copy_and_resolve_references()
  config.init_from, config.model.mapping_layers = file, None
  found = start.with_model_of(config, str(tmp_path))
  assert found.model.mapping_layers == trained[1].model.mapping_layers


def test_a_generator_alone_can_be_packed(trained, tmp_path):
  path = str(tmp_path / 'generator.safetensors')
  pack.pack(trained[0], path, with_discriminator=False)
  assert 'd_params' not in reader.restore_networks(path).networks


def test_names_stand_for_shipped_models_and_folders_are_given_as_paths(
    file, tmp_path, monkeypatch):
  monkeypatch.setattr(packed, 'MODELS', os.path.dirname(file))
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'model').mkdir()
  assert packed.find('model') == file and packed.find('other') is None
  assert packed.find('./model') is None
  with pytest.raises(UserError, match='there is no checkpoint'):
    reader.restore_ema('./model')


def test_the_shipped_model_is_small_and_whole():
  found = reader.restore_ema('small')
  count = sum(leaf.size for leaf in jax.tree.leaves(found.variables['params']))
  assert found.model.resolution == 128 and 4e6 < count < 6e6
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.variables))
  discriminator = reader.restore_networks('small', ('d_params',)).networks['d_params']
  assert 4e6 < sum(leaf.size for leaf in jax.tree.leaves(discriminator)) < 5e6
  assert 'projected' in discriminator


def test_values_beyond_float16_are_refused(tmp_path):
  path = str(tmp_path / 'model.safetensors')
  fields = {'ema_params': {'layer': {'kernel': np.full(3, 1e6)}}, 'ema_buffers': {}}
  with pytest.raises(UserError, match='ema_params/layer/kernel has values beyond float16'):
    packed.write(path, packed.Packed({'model': {}}, fields))
  assert packed.find(path) is None


def test_damaged_and_other_files_are_named(file, tmp_path):
  cut, other = tmp_path / 'cut.safetensors', tmp_path / 'other.safetensors'
  shutil.copy(file, cut)
  with open(cut, 'r+b') as stream:
    stream.truncate(1000)
  with pytest.raises(UserError, match='cut.safetensors cannot be read'):
    reader.restore_ema(str(cut))
  save_file({'weight': np.zeros(3, np.float32)}, other)
  with pytest.raises(UserError, match='other.safetensors holds no packed model.*from_torch'):
    reader.restore_ema(str(other))
  with pytest.raises(UserError, match='there is no checkpoint'):
    reader.restore_ema(str(tmp_path / 'missing.safetensors'))
