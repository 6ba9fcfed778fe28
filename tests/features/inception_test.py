"""The Inception of the FID against the reference, and its resize against plain loops."""

import jax
import numpy as np
import pytest

from benchmarks.reference import fill
from convert.feature_nets import inception_params_from_state_dict
from mat_jax.features import inception
from tests.support import reference


@pytest.fixture(scope='module')
def params():
  shapes = reference.load('manifest_inception.json')
  values = {}
  for name, shape in shapes.items():
    value = fill.fill_feature_net(f'inception/{name}', tuple(shape))
    if name.endswith('bn.weight'):
      value = 1 + value
    elif name.endswith('running_var'):
      value = 1 + np.abs(value)
    values[name] = value
  return inception_params_from_state_dict(values)


def test_matches_the_reference(params):
  image, _, _ = fill.inputs('metrics', 2, 256)
  image = np.clip(np.rint((reference.nhwc(image) + 1) * 127.5), 0, 255).astype(np.uint8)
  pooled, logits = jax.jit(inception.inception_features)(params, image)
  golden = reference.load('inception.npz')
  assert reference.relative_error(pooled, golden['pool3']) < 1e-5
  assert reference.relative_error(logits, golden['logits_unbiased']) < 1e-5


@pytest.mark.parametrize('height,width,side', [(5, 9, 7), (4, 3, 11), (6, 6, 6)])
def test_resize_samples_from_the_corner(height, width, side):
  image = fill.normal('inception/resize', (1, height, width, 2))
  expected = np.empty((1, side, side, 2))
  for i in range(side):
    for j in range(side):
      y, x = i * height / side, j * width / side
      y0, x0 = int(y), int(x)
      y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
      top = image[0, y0, x0] * (1 - x + x0) + image[0, y0, x1] * (x - x0)
      bottom = image[0, y1, x0] * (1 - x + x0) + image[0, y1, x1] * (x - x0)
      expected[0, i, j] = top * (1 - y + y0) + bottom * (y - y0)
  np.testing.assert_allclose(inception.resize(image, side), expected, atol=1e-5)


def test_shapes_follow_the_manifest():
  manifest = reference.load('manifest_inception.json')
  published = {name.removesuffix('.conv.weight'): shape for name, shape in manifest.items()
               if name.endswith('.conv.weight')}
  ours = {name: [outputs, inputs, height, width] for name, (height, width, inputs, outputs)
          in inception.convolution_shapes().items()}
  assert ours == published
