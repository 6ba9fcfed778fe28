import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mat_jax.training.step import warp

SIDE = 32
SINGLE = [
    {'flip': -1.0}, {'quarter_turns': 1}, {'quarter_turns': 2}, {'quarter_turns': 3},
    {'translation': (3.0, -2.0)}, {'scale': 1.2}, {'scale': 0.7}, {'pre_rotation': 0.4},
    {'aspect': 1.3}, {'post_rotation': -2.0}, {'shift': (2.3, -0.7)}]
ALL = {'flip': -1.0, 'quarter_turns': 3, 'translation': (3.0, -2.0), 'scale': 1.1,
       'pre_rotation': 0.5, 'aspect': 0.8, 'post_rotation': 1.0, 'shift': (1.2, 3.4)}

run = jax.jit(warp.warp)
inverse_matrix = jax.jit(warp.inverse_matrix)


def geometry(*parameters):
  """One image for each dict of parameters; what a dict leaves out is neutral."""
  neutral = warp.Geometry.neutral(1)
  one_each = [
      neutral.replace(**{name: jnp.array([value], getattr(neutral, name).dtype)
                         for name, value in each.items()})
      for each in parameters]
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *one_each)


def smooth_image(height=SIDE, width=SIDE):
  """[H, W] in [-1, 1] without symmetry, of cosines of at most three half periods a side."""
  waves = [np.cos(np.pi * np.outer(np.arange(n), np.arange(4)) / (n - 1)) for n in (height, width)]
  amplitudes = np.random.default_rng(0).standard_normal((4, 4))
  image = waves[0] @ amplitudes @ waves[1].T
  return (image / np.abs(image).max()).astype(np.float32)


def warp_image(image, **parameters):
  inverse = inverse_matrix(geometry(parameters))
  return np.asarray(run(image[None, :, :, None], inverse))[0, :, :, 0]


def forward_matrix(flip=1.0, quarter_turns=0, translation=(0, 0), scale=1.0, pre_rotation=0.0,
                   aspect=1.0, post_rotation=0.0, shift=(0, 0)):
  """What happens to a position (row, column, 1) relative to the centre, step by step."""
  def scaled(rows, columns):
    return np.diag([rows, columns, 1.0])

  def turned(angle):
    # Counterclockwise: what is on the right, (0, 1), comes to the top, (-1, 0).
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])

  def moved(offset):
    return np.array([[1, 0, offset[1]], [0, 1, offset[0]], [0, 0, 1.0]])

  steps = (scaled(1, flip), turned(quarter_turns * math.pi / 2), moved(translation),
           scaled(scale, scale), turned(pre_rotation), scaled(1 / aspect, aspect),
           turned(post_rotation), moved(shift))
  result = np.eye(3)
  for step in steps:
    result = step @ result
  return result


def scipy_warp(image, **parameters):
  inverse = np.linalg.inv(forward_matrix(**parameters))
  center = (np.array(image.shape) - 1) / 2
  offset = inverse[:2, 2] + center - inverse[:2, :2] @ center
  return ndimage.affine_transform(
      image.astype(np.float64), inverse[:2, :2], offset, order=3, mode='mirror')


def test_the_filter_is_an_orthonormal_low_pass_with_six_vanishing_moments():
  taps = np.array(warp.SYM6)
  assert len(taps) == 12
  np.testing.assert_allclose(taps.sum(), math.sqrt(2), atol=1e-10)
  products = [taps[2 * k:] @ taps[:12 - 2 * k] for k in range(6)]
  np.testing.assert_allclose(products, [1, 0, 0, 0, 0, 0], atol=1e-10)
  positions = np.arange(12) - 5.5
  moments = [np.sum((-1.0) ** np.arange(12) * taps * positions**k) for k in range(7)]
  np.testing.assert_allclose(moments[:6], 0, atol=1e-8)
  assert abs(moments[6]) > 1
  # The least asymmetric of that length.
  assert abs(positions @ taps / taps.sum()) < 0.5


def test_flip_mirrors_left_and_right():
  image = smooth_image()
  np.testing.assert_allclose(warp_image(image, flip=-1.0), np.flip(image, 1), atol=3e-3)


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_quarter_turns_are_counterclockwise(turns):
  image = smooth_image()
  np.testing.assert_allclose(
      warp_image(image, quarter_turns=turns), np.rot90(image, turns), atol=3e-3)


def test_a_rotation_by_a_right_angle_is_a_quarter_turn():
  image = smooth_image()
  for name in ('pre_rotation', 'post_rotation'):
    np.testing.assert_allclose(
        warp_image(image, **{name: math.pi / 2}), np.rot90(image), atol=3e-3)


@pytest.mark.parametrize('name', ['translation', 'shift'])
def test_whole_pixels_move_any_image_right_and_down_exactly(name):
  noise = np.random.default_rng(0).uniform(-1, 1, (SIDE, SIDE)).astype(np.float32)
  padded = np.pad(noise, 8, mode='reflect')
  expected = padded[8 + 2:8 + 2 + SIDE, 8 - 3:8 - 3 + SIDE]
  result = warp_image(noise, **{name: (3.0, -2.0)})
  np.testing.assert_allclose(result[6:-6, 6:-6], expected[6:-6, 6:-6], atol=2e-5)
  image = smooth_image()
  expected = np.pad(image, 8, mode='reflect')[8 + 2:8 + 2 + SIDE, 8 - 3:8 - 3 + SIDE]
  np.testing.assert_allclose(warp_image(image, **{name: (3.0, -2.0)}), expected, atol=3e-3)


@pytest.mark.parametrize('parameters', [*SINGLE, ALL], ids=lambda p: '-'.join(p))
def test_every_transform_is_that_of_scipy(parameters):
  image = smooth_image()
  expected = scipy_warp(image, **parameters)
  assert np.abs(expected - image).max() > 0.1
  np.testing.assert_allclose(warp_image(image, **parameters), expected, atol=5e-3)


def test_images_need_not_be_square():
  image = smooth_image(24, 40)
  parameters = {name: value for name, value in ALL.items() if name != 'quarter_turns'}
  np.testing.assert_allclose(
      warp_image(image, **parameters), scipy_warp(image, **parameters), atol=1e-2)


def test_a_constant_stays_constant_and_far_positions_stay_in_the_image():
  far = ALL | {'shift': (1000.3, -777.7), 'scale': 0.05}
  for parameters in (*SINGLE, ALL, far):
    result = warp_image(np.full((SIDE, SIDE), 0.7, np.float32), **parameters)
    np.testing.assert_allclose(result, 0.7, atol=1e-6)
  assert np.abs(warp_image(smooth_image(), **far)).max() <= 1.5


def test_images_are_moved_on_their_own():
  images = np.random.default_rng(1).standard_normal((4, 16, 16, 2), np.float32)
  inverse = inverse_matrix(geometry(*SINGLE[3:6], ALL))
  together = run(images, inverse)
  np.testing.assert_allclose(together[2:], run(images[2:], inverse[2:]), atol=1e-6)
  np.testing.assert_allclose(together[..., :1], run(images[..., :1], inverse), atol=1e-6)
