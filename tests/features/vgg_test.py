"""VGG and AlexNet forward passes against plain NumPy, on narrow networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.reference import fill
from mat_jax.features import vgg

WIDTHS = (4, 5, 6, 7, 8)
NETWORKS = ('vgg16', 'vgg19')


def narrow_params(network):
  params, channels = {}, 3
  for name in vgg.conv_names(network):
    width = WIDTHS[int(name[4]) - 1]
    params[name] = {
        'kernel': fill.normal(name + '.kernel', (3, 3, channels, width)) / np.sqrt(4 * channels),
        'bias': 0.1 * fill.normal(name + '.bias', (width,))}
    channels = width
  return params


# One compilation of the whole instead of one per operation and shape.
vgg_features = jax.jit(vgg.vgg_features, static_argnames=('layers', 'network', 'dtype'))


def plain_features(params, x):
  """All activations before and after the ReLUs, float64."""
  features, x = {}, x.astype(np.float64)
  for name, layer in params.items():
    if name.endswith('_1') and name != 'conv1_1':
      n, h, w, c = x.shape
      x = x[:, :h // 2 * 2, :w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = layer['bias'] + sum(
        padded[:, i:i + h, j:j + w] @ layer['kernel'][i, j].astype(np.float64)
        for i in range(3) for j in range(3))
    features[name] = x
    x = np.maximum(x, 0)
    features[name.replace('conv', 'relu')] = x
  return features


@pytest.mark.parametrize('network', NETWORKS)
def test_all_layers_against_numpy(network):
  params = narrow_params(network)
  images = fill.normal('feature_nets/images', (2, 38, 21, 3))  # odd sides round down
  expected = plain_features(params, images)
  with jax.default_matmul_precision('float32'):
    features = vgg_features(params, images, tuple(expected), network)
  assert features.keys() == expected.keys()
  for name, value in expected.items():
    assert features[name].dtype == jnp.float32
    np.testing.assert_allclose(
        features[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_relu_layers_are_rectified_conv_layers():
  params = narrow_params('vgg16')
  images = fill.normal('feature_nets/images', (1, 16, 16, 3))
  features = vgg_features(params, images, ('conv3_3', 'relu3_3'), 'vgg16')
  assert np.min(features['conv3_3']) < 0
  np.testing.assert_array_equal(features['relu3_3'], np.maximum(features['conv3_3'], 0))


@pytest.mark.parametrize('layer', ('conv2_2', 'relu2_2'))
def test_stops_after_the_last_layer(layer):
  params = narrow_params('vgg19')
  first_four = {name: params[name] for name in ('conv1_1', 'conv1_2', 'conv2_1', 'conv2_2')}
  images = fill.normal('feature_nets/images', (1, 16, 16, 3))
  features = vgg_features(first_four, images, (layer,), 'vgg19')
  assert list(features) == [layer]
  program = str(jax.make_jaxpr(
      lambda x: vgg.vgg_features(params, x, (layer,), 'vgg19'))(images))
  assert program.count('conv_general_dilated[') == 4


def test_bfloat16():
  params = narrow_params('vgg16')
  images = fill.normal('feature_nets/images', (1, 16, 16, 3))
  features = vgg_features(params, images, ('conv3_3',), 'vgg16', jnp.bfloat16)
  expected = plain_features(params, images)['conv3_3']
  assert features['conv3_3'].dtype == jnp.bfloat16
  np.testing.assert_allclose(
      features['conv3_3'].astype(jnp.float32), expected, rtol=0,
      atol=0.05 * np.abs(expected).max())


def test_gradient_reaches_the_images():
  params = narrow_params('vgg19')
  images = fill.normal('feature_nets/images', (1, 16, 16, 3))

  def mean_of_last(x):
    return vgg_features(params, x, ('conv3_4',), 'vgg19')['conv3_4'].mean()

  direction = fill.normal('feature_nets/direction', images.shape)
  slope = np.vdot(jax.jit(jax.grad(mean_of_last))(images), direction)
  step = 1e-5 * direction.astype(np.float64)
  plain = [plain_features(params, images + s)['conv3_4'].mean() for s in (step, -step)]
  np.testing.assert_allclose(slope, (plain[0] - plain[1]) / 2e-5, rtol=1e-3)


def test_perceptual_layers_are_the_last_convolutions_of_blocks_4_and_5():
  assert vgg.perceptual_layers('vgg19') == {'conv4_4': 0.25, 'conv5_4': 0.5}
  assert vgg.perceptual_layers('vgg16') == {'conv4_3': 0.25, 'conv5_3': 0.5}


def test_imagenet_normalize():
  x = jnp.array([[-1.0, 0.0, 1.0], [1.0, -1.0, 0.5]])
  expected = [[-0.485 / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225],
              [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.75 - 0.406) / 0.225]]
  np.testing.assert_allclose(vgg.imagenet_normalize(x), expected, rtol=1e-5)
  assert vgg.imagenet_normalize(x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_normalized_channels_have_length_1_and_finite_gradients_at_0():
  x = np.random.default_rng(0).normal(size=(1, 2, 2, 8)).astype(np.float32)
  x[0, 0, 0] = 0
  y, gradient = jax.value_and_grad(lambda x: vgg.normalize_channels(x)[..., 0].sum())(x)
  lengths = np.linalg.norm(vgg.normalize_channels(x), axis=-1)
  np.testing.assert_allclose(lengths, [[[0, 1], [1, 1]]], rtol=1e-6)
  assert np.isfinite(y) and np.isfinite(gradient).all()


def test_unknown_names():
  images = np.zeros((1, 16, 16, 3), np.float32)
  with pytest.raises(ValueError, match='conv4_4'):
    vgg.vgg_features(narrow_params('vgg16'), images, ('conv4_4',), 'vgg16')
  with pytest.raises(ValueError, match='vgg11'):
    vgg.perceptual_layers('vgg11')


def plain_conv(x, kernel, bias, stride, padding):
  x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  side = kernel.shape[0]
  windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
  return bias + np.einsum('nyxchw,hwco->nyxo', windows[:, ::stride, ::stride], kernel)


def test_alexnet_takes_31_pixels():
  params = {name: {'kernel': np.ones((side, side, 3, 3)), 'bias': np.ones(3)}
            for name, side in zip(vgg.ALEXNET_LAYERS, (11, 5, 3, 3, 3), strict=True)}
  features = vgg.alexnet_features(params, np.zeros((1, 31, 31, 3), np.float32))
  assert features['relu5'].shape == (1, 1, 1, 3)


def test_alexnet_against_numpy():
  params, channels = {}, 3
  for name, side, width in zip(vgg.ALEXNET_LAYERS, (11, 5, 3, 3, 3), WIDTHS, strict=True):
    params[name] = {
        'kernel': fill.normal(name + '.kernel', (side, side, channels, width)) / np.sqrt(
            side**2 * channels),
        'bias': 0.1 * fill.normal(name + '.bias', (width,))}
    channels = width
  images = fill.normal('feature_nets/images', (2, 70, 65, 3))
  with jax.default_matmul_precision('float32'):
    features = jax.jit(vgg.alexnet_features)(params, images)
  x = images.astype(np.float64)
  for name in vgg.ALEXNET_LAYERS:
    if name in ('conv2', 'conv3'):
      windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
      x = windows[:, ::2, ::2].max((-2, -1))
    stride, padding = {'conv1': (4, 2), 'conv2': (1, 2)}.get(name, (1, 1))
    x = np.maximum(0, plain_conv(x, params[name]['kernel'], params[name]['bias'], stride, padding))
    found = features[name.replace('conv', 'relu')]
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-5 * np.abs(x).max(), err_msg=name)
