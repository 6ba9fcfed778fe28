"""Image metrics against the reference values and plain float64 NumPy."""

import math

import jax
import numpy as np
import pytest
import scipy.ndimage

from benchmarks.reference import fill
from eval.metrics import image_metrics
from mat_jax.errors import UserError

# Computed in float64 for the pairs of `reference_pairs`.
REFERENCE = {
    'psnr': (39.991995491392814, 28.427692027563847, 23.257625014668974, 21.00563395478072),
    'ssim': (0.9355082536878402, 0.7599249330210137, 0.6684822116516166, 0.6999903027481124),
    'l1': (0.0031775381050857844, 0.015268622504340279, 0.03091362847222222,
           0.03712477341196895),
}
METRICS = (image_metrics.psnr, image_metrics.ssim, image_metrics.l1)
# Relative for PSNR and L1, absolute for SSIM.
TOLERANCE = {'psnr': {'rtol': 1e-6}, 'ssim': {'rtol': 0, 'atol': 1e-6}, 'l1': {'rtol': 1e-6}}


@pytest.fixture(scope='module')
def reference_pairs():
  """Images, their copies with a noisy hole (uint8 NHWC) and the hole."""
  image, mask, _ = fill.inputs('metrics', 4, 256)
  noise = np.stack([
      (0.05 + 0.1 * n) * fill.normal(f'metrics/noise/{n}', (3, 256, 256)) for n in range(4)])
  noisy = np.clip(image + (1 - mask) * noise, -1, 1)
  a, b = (np.asarray(image_metrics.to_uint8(x.transpose(0, 2, 3, 1))) for x in (image, noisy))
  return a, b, 1 - mask.transpose(0, 2, 3, 1)


@pytest.fixture(scope='module')
def random_pairs():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 256, (2, 3, 40, 29, 3)).astype(np.uint8)
  return a, b, rng.random((3, 40, 29, 1)) < 0.3


def plain_ssim_map(a, b):
  offsets = np.arange(-5, 6)
  window = np.exp(-offsets**2 / (2 * 1.5**2))
  window /= window.sum()

  def blur(x):
    for axis in (0, 1):
      x = scipy.ndimage.correlate1d(x, window, axis=axis)
    return x[5:-5, 5:-5]

  a, b = a.astype(np.float64), b.astype(np.float64)
  mean_a, mean_b = blur(a), blur(b)
  variance = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
  covariance = blur(a * b) - mean_a * mean_b
  c1, c2 = 2.55**2, 7.65**2
  return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
          / ((mean_a**2 + mean_b**2 + c1) * (variance + c2)))


def plain(metric, a, b, hole=None):
  """One metric of one pair, float64; `hole` [H, W, 1]."""
  inside = np.ones(a.shape[:2], bool) if hole is None else np.asarray(hole)[..., 0] == 1
  if metric.__name__ == 'ssim':
    return plain_ssim_map(a, b)[inside[5:-5, 5:-5]].mean()
  difference = (a.astype(np.float64) - b)[inside]
  if metric.__name__ == 'l1':
    return np.abs(difference).mean() / 255
  return 10 * np.log10(255**2 / np.mean(difference**2))


@pytest.mark.parametrize('metric', METRICS)
def test_reference_values(metric, reference_pairs):
  a, b, _ = reference_pairs
  np.testing.assert_allclose(
      metric(a, b), REFERENCE[metric.__name__], **TOLERANCE[metric.__name__])


@pytest.mark.parametrize('metric', METRICS)
def test_hole_alone(metric, reference_pairs):
  a, b, hole = reference_pairs
  expected = [plain(metric, *pair) for pair in zip(a, b, hole, strict=True)]
  np.testing.assert_allclose(metric(a, b, hole), expected, **TOLERANCE[metric.__name__])


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('with_hole', (False, True))
def test_batch_equals_single(metric, with_hole, random_pairs):
  arrays = random_pairs if with_hole else random_pairs[:2]
  batch = metric(*arrays)
  assert batch.shape == (3,)
  single = [metric(*pair) for pair in zip(*arrays, strict=True)]
  assert all(value.shape == () for value in single)
  expected = [plain(metric, *pair) for pair in zip(*arrays, strict=True)]
  for values in (batch, single):
    np.testing.assert_allclose(values, expected, **TOLERANCE[metric.__name__])


@pytest.mark.parametrize('metric', METRICS)
def test_inside_jit(metric, random_pairs):
  np.testing.assert_allclose(
      jax.jit(metric)(*random_pairs), metric(*random_pairs), **TOLERANCE[metric.__name__])


@pytest.mark.parametrize('metric', METRICS)
def test_symmetric(metric, random_pairs):
  a, b, _ = random_pairs
  np.testing.assert_allclose(metric(a, b), metric(b, a), rtol=1e-6)


def test_equal_images(random_pairs):
  a, _, hole = random_pairs
  for holes in ((), (hole,)):
    assert np.all(np.isposinf(image_metrics.psnr(a, a, *holes)))
    np.testing.assert_allclose(image_metrics.ssim(a, a, *holes), 1, rtol=1e-6)
    assert np.all(np.asarray(image_metrics.l1(a, a, *holes)) == 0)


@pytest.mark.parametrize('low, high', ((0, 255), (200, 140), (7, 7)))
def test_constant_images(low, high):
  a, b = (np.full((300, 260, 3), value, np.uint8) for value in (low, high))
  c1 = 2.55**2
  luminance = (2 * low * high + c1) / (low**2 + high**2 + c1)
  psnr = math.inf if low == high else 20 * math.log10(255 / abs(high - low))
  np.testing.assert_allclose(image_metrics.psnr(a, b), psnr, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(image_metrics.ssim(a, b), luminance, rtol=1e-6)
  np.testing.assert_allclose(image_metrics.l1(a, b), abs(high - low) / 255, rtol=1e-6)


def test_ssim_of_bright_images_keeps_its_digits():
  # Tiny variances about a mean of 254.5, where E[x^2] - E[x]^2 loses them in float32.
  rng = np.random.default_rng(1)
  a, b = (255 - rng.integers(0, 2, (2, 64, 64, 3))).astype(np.uint8)
  np.testing.assert_allclose(
      image_metrics.ssim(a, b), plain(image_metrics.ssim, a, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize('shape', ((11, 11, 3), (12, 700, 3), (139, 67, 3), (2, 0, 16, 16, 3)))
def test_ssim_of_any_size(shape):
  rng = np.random.default_rng(2)
  a, b = (rng.integers(0, 256, (2, *shape)) // (1, 3, 9)).astype(np.uint8)
  values = np.asarray(image_metrics.ssim(a, b))
  assert values.shape == shape[:-3]
  if values.size:
    np.testing.assert_allclose(values, plain_ssim_map(a, b).mean(), rtol=0, atol=1e-6)


def test_ssim_of_a_bright_spot_in_the_dark():
  a = np.zeros((256, 256, 3), np.uint8)
  a[100:160, 90:170] = 255
  b = a - (np.random.default_rng(3).random(a.shape) < 0.02) * (a > 0)
  hole = (a[..., :1] > 0).astype(np.float32)
  expected = plain(image_metrics.ssim, a, b, hole)
  assert expected < 0.9998
  np.testing.assert_allclose(image_metrics.ssim(a, b, hole), expected, rtol=0, atol=1e-5)


def test_psnr_of_one_wrong_pixel():
  a = np.zeros((256, 256, 3), np.uint8)
  b = a.copy()
  b[100, 100, 1] = 1
  np.testing.assert_allclose(
      image_metrics.psnr(a, b), 10 * math.log10(255**2 * a.size), rtol=1e-6)


@pytest.mark.parametrize('metric', METRICS)
def test_empty_hole_is_nan(metric, random_pairs):
  a, b, _ = random_pairs
  hole = np.zeros((3, 40, 29, 1), np.float32)
  hole[1, 20, 15] = 1
  np.testing.assert_array_equal(np.isnan(metric(a, b, hole)), (True, False, True))


def test_hole_at_the_border_has_no_ssim_window(random_pairs):
  a, b, _ = random_pairs
  hole = np.zeros((3, 40, 29, 1), bool)
  hole[:, :5] = True
  assert np.all(np.isnan(image_metrics.ssim(a, b, hole)))
  assert np.all(np.isfinite(image_metrics.psnr(a, b, hole)))


@pytest.mark.parametrize('metric', METRICS)
def test_errors_name_shapes_and_types(metric):
  a = np.zeros((2, 16, 16, 3), np.uint8)
  for b, text in (
      (a[:, :12], r'\(2, 16, 16, 3\).*\(2, 12, 16, 3\)'),
      (a.astype(np.float32), r'uint8.*float32'),
      (a[0], r'\(2, 16, 16, 3\).*\(16, 16, 3\)')):
    with pytest.raises(UserError, match=text):
      metric(a, b)
  with pytest.raises(UserError, match=r'\(2, 16, 16, 1\)'):
    metric(a[..., :1], a[..., :1])
  with pytest.raises(UserError, match=r'\(2, 16, 16, 1\).*\(16, 16, 1\)'):
    metric(a, a, np.zeros((16, 16, 1)))
  with pytest.raises(UserError, match='uint8'):
    metric(a, a, a[..., :1])


def test_ssim_needs_a_window():
  a = np.zeros((10, 64, 3), np.uint8)
  with pytest.raises(UserError, match=r'11x11.*\(10, 64, 3\)'):
    image_metrics.ssim(a, a)


def test_to_uint8():
  x = np.array([-1.5, -1, -0.999, 0.0, 0.5, 1, 1.5], np.float32)
  levels = image_metrics.to_uint8(x)
  assert levels.dtype == np.uint8
  # 127.5 rounds to the even 128.
  np.testing.assert_array_equal(levels, [0, 0, 0, 128, 191, 255, 255])
  every_level = np.arange(256) / 127.5 - 1
  np.testing.assert_array_equal(image_metrics.to_uint8(every_level), np.arange(256))
