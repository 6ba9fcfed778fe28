"""LPIPS against the reference values, on the real weights and on deterministic ones."""

import functools
import os

import jax
import numpy as np
from PIL import Image
import pytest

from benchmarks.reference import fill
from convert import feature_nets
from eval.metrics import lpips_distance
from mat_jax.errors import UserError
from tests.support import reference

NETS = ('alex', 'vgg')
# LPIPS v0.1 of the example images with the real weights, in float64: d(ref, p0), d(ref, p1).
EXAMPLES = {'alex': (0.7218807124787826, 0.13756560947904647),
            'vgg': (0.5686128167106164, 0.4216642592219141)}
SMALLEST = {'alex': 31, 'vgg': 16}
# Positions of the convolutions in torchvision's `features`, and the sides of their kernels.
CONVS = {'alex': ((0, 11), (3, 5), (6, 3), (8, 3), (10, 3)),
         'vgg': tuple((i, 3) for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))}


@pytest.fixture(scope='module')
def distances():
  """LPIPS with the real weights by net."""
  return {net: functools.partial(lpips_distance.lpips, net=net) for net in NETS}


@pytest.fixture(scope='module')
def examples():
  """uint8 [3, 64, 64, 3]: ref, p0, p1."""
  paths = (os.path.join(reference.GOLDEN, 'lpips', f'ex_{name}.png')
           for name in ('ref', 'p0', 'p1'))
  return np.stack([np.asarray(Image.open(path).convert('RGB')) for path in paths])


def filled_features(net, params):
  """Parameters of the same shapes with deterministic values."""
  features = {}
  for (name, layer), (index, side) in zip(params.items(), CONVS[net], strict=True):
    *_, inputs, outputs = layer['kernel'].shape
    weight = fill.fill_feature_net(f'{net}/features.{index}.weight', (outputs, inputs, side, side))
    bias = fill.fill_feature_net(f'{net}/features.{index}.bias', (outputs,))
    features[name] = {'kernel': weight.transpose(2, 3, 1, 0), 'bias': bias}
  return features


@pytest.mark.parametrize('net', NETS)
def test_reference_values(net):
  params = feature_nets.load_lpips(net)
  params['features'] = filled_features(net, params['features'])
  image, mask, _ = fill.inputs('metrics', 4, 256)
  noise = np.stack([
      (0.05 + 0.1 * n) * fill.normal(f'metrics/noise/{n}', (3, 256, 256)) for n in range(4)])
  noisy = np.clip(image + (1 - mask) * noise, -1, 1)
  chosen = slice(None, None, 3 if net == 'vgg' else 1)  # VGG takes its time
  values = lpips_distance.lpips(*(reference.nhwc(x)[chosen] for x in (image, noisy)), net, params)
  assert values.dtype == np.float32
  np.testing.assert_allclose(
      values, reference.load('metrics.json')[f'lpips_{net}'][chosen], rtol=1e-4)


@pytest.mark.parametrize('net', NETS)
def test_example_images(net, distances, examples):
  ref, *others = examples
  values = [distances[net](ref, other) for other in others]
  assert all(value.shape == () and value.dtype == np.float32 for value in values)
  np.testing.assert_allclose(values, EXAMPLES[net], rtol=1e-4)
  as_float = examples.astype(np.float32) / 127.5 - 1
  np.testing.assert_allclose(
      distances[net](as_float[[0, 0]], as_float[1:]), EXAMPLES[net], rtol=1e-4)


@pytest.mark.parametrize('net', NETS)
def test_equal_images(net, distances, examples):
  np.testing.assert_allclose(distances[net](examples, examples), 0, atol=1e-12)


@pytest.mark.parametrize('net', NETS)
def test_symmetric(net, distances, examples):
  ref, p0, _ = examples
  np.testing.assert_allclose(distances[net](p0, ref), distances[net](ref, p0), rtol=1e-6)


def test_a_pair_does_not_depend_on_its_batch(distances, examples):
  """Batches below, at and above the number of pairs that are computed at a time."""
  rng = np.random.default_rng(0)
  order = rng.permutation(np.repeat([1, 2], [20, 17]))
  expected = np.array([np.nan, *EXAMPLES['alex']])[order]
  a, b = np.broadcast_to(examples[0], (37, 64, 64, 3)), examples[order]
  for count in (0, 1, 8, 37):
    values = distances['alex'](a[:count], b[:count])
    assert values.shape == (count,)
    np.testing.assert_allclose(values, expected[:count], rtol=1e-5)
  grid = distances['alex'](a[:6].reshape(2, 3, 64, 64, 3), b[:6].reshape(2, 3, 64, 64, 3))
  np.testing.assert_allclose(grid, expected[:6].reshape(2, 3), rtol=1e-5)
  on_device = distances['alex'](jax.device_put(a), jax.device_put(b))
  np.testing.assert_allclose(on_device, expected, rtol=1e-5)


def test_inside_jit(examples):
  params = feature_nets.load_lpips('alex')
  images = examples.astype(np.float32) / 127.5 - 1
  compiled = jax.jit(lpips_distance.lpips_distance, static_argnames='net')
  values = compiled(params, images[[0, 0]], images[1:], net='alex')
  np.testing.assert_allclose(values, EXAMPLES['alex'], rtol=1e-4)


@pytest.mark.parametrize('net', NETS)
def test_smallest_image(net, distances):
  side = SMALLEST[net]
  a, b = np.random.default_rng(1).integers(0, 256, (2, side, side + 5, 3)).astype(np.uint8)
  assert 0 < distances[net](a, b) < 5
  with pytest.raises(UserError, match=rf'{net}.*{side}x{side}.*\({side - 1}, {side + 5}, 3\)'):
    distances[net](a[1:], b[1:])


def test_errors(distances):
  a = np.zeros((2, 40, 40, 3), np.uint8)
  as_float = np.zeros(a.shape, np.float32)
  for b, text in (
      (a[:, :36], r'\(2, 40, 40, 3\).*\(2, 36, 40, 3\)'),
      (a[0], r'\(2, 40, 40, 3\).*\(40, 40, 3\)'),
      (a.astype(np.float64), r'uint8, or float32.*float64'),
      (a.astype(np.int32), r'uint8, or float32.*int32'),
      (as_float + 1.5, r'\[-1, 1\].*1\.5'),
      (as_float - 1.5, r'\[-1, 1\].*-1\.5'),
      (as_float * np.nan, r'\[-1, 1\].*nan')):
    with pytest.raises(UserError, match=text):
      distances['alex'](a, b)
    with pytest.raises(UserError):
      distances['alex'](b, a)
  with pytest.raises(UserError, match=r'\(2, 40, 40, 1\)'):
    distances['alex'](a[..., :1], a[..., :1])
  with pytest.raises(UserError, match=r'\(40, 3\)'):
    distances['alex'](a[0, 0], a[0, 0])


@pytest.mark.parametrize('params', (None, {}))
def test_unknown_net(params):
  with pytest.raises(UserError, match="'squeeze'; choose of alex, vgg"):
    lpips_distance.lpips(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40, 3), np.uint8), 'squeeze',
                         params)


def test_pairwise():
  params = lpips_distance.load_lpips('alex')
  images = np.random.default_rng(0).uniform(-1, 1, (3, 2, 40, 40, 3)).astype(np.float32)
  found = lpips_distance.pairwise(params, images, 'alex')
  assert found.shape == (3, 3, 2) and not np.diagonal(found).any()
  np.testing.assert_array_equal(found, found.swapaxes(0, 1))
  np.testing.assert_allclose(
      found[0, 2], lpips_distance.lpips_distance(params, images[0], images[2], 'alex'), rtol=1e-6)
