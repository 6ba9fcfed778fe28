"""The registry of feature networks; the networks themselves have tests of their own."""

import jax
import numpy as np
import pytest

from convert import feature_nets as weights
from eval.metrics import feature_networks
from mat_jax.errors import UserError
from mat_jax.features import vgg


@pytest.fixture
def offline(monkeypatch, tmp_path):
  """A machine without network and without cached weights."""
  def fetch(network):
    raise UserError(f'the {network} weights are not here and cannot be downloaded')
  monkeypatch.setattr(weights.weight_files, 'fetch', fetch)


def test_vgg16_features_are_the_mean_of_relu5_3():
  params, notes = feature_networks.load('vgg16', {})
  images = np.random.default_rng(0).integers(256, size=(2, 32, 48, 3), dtype=np.uint8)
  found = jax.jit(feature_networks.extract, static_argnums=0)('vgg16', params['vgg16'], images)
  x = vgg.imagenet_normalize(images / np.float32(127.5) - 1)
  maps = vgg.vgg_features(params['vgg16'], x, ['relu5_3'], 'vgg16')['relu5_3']
  assert found.shape == (2, 512) and notes == ()
  np.testing.assert_allclose(found, maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
  with pytest.raises(UserError, match='at least 16 x 16 pixels, got 48 x 8'):
    feature_networks.extract('vgg16', params['vgg16'], images[:, :8])


def test_auto_says_what_it_leaves_out(offline):
  loaded, notes = feature_networks.load('auto', {'inception': '', 'clip': ''})
  assert set(loaded) == {'vgg16'}
  (note,) = notes
  assert note == ('No metrics with inception features: the inception weights are not here and '
                  'cannot be downloaded.')


def test_what_is_asked_for_by_name_has_to_be_there(offline, tmp_path):
  with pytest.raises(UserError, match='inception weights are not here'):
    feature_networks.load('inception+vgg16', {})
  with pytest.raises(UserError, match='set eval.dinov2_weights'):
    feature_networks.load('dinov2', {'dinov2': ''})
  # A path that is given is meant, in 'auto' too.
  for names in ('auto', 'inception'):
    with pytest.raises(UserError, match='nowhere.pth cannot be read'):
      feature_networks.load(names, {'inception': str(tmp_path / 'nowhere.pth')})
  with pytest.raises(UserError, match="no feature network 'vgg19'; choose of inception, vgg16"):
    feature_networks.load('vgg16+vgg19', {})
  assert feature_networks.load('', {}) == ({}, ())
