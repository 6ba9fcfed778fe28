"""DINOv2 and CLIP against the published implementations, the resize against Pillow.

`golden/vision_transformers.npz` holds what PyTorch computes with the weights and images
of `vision_weights`: DINOv2 with its published source, CLIP with transformers (OpenAI's
source agrees to 4e-7). '*_resized' are images that Pillow 12 has resized.
"""

import jax
import numpy as np
from PIL import Image
import pytest

from convert.vision_transformer_weights import (
  clip_params_from_state_dict,
  dinov2_params_from_state_dict,
)
from mat_jax.features import vision_transformer
from tests.support import reference, vision_weights

CLIP_SIDE = vision_weights.CLIP_GRID * vision_weights.PATCH


@pytest.fixture(scope='module')
def golden():
  return reference.load('vision_transformers.npz')


@pytest.fixture(scope='module')
def dinov2():
  params = dinov2_params_from_state_dict(vision_weights.filled(vision_weights.dinov2_shapes()))
  features = jax.jit(vision_transformer.dinov2_features)
  return lambda images: features(params, images)


@pytest.fixture(scope='module')
def clip():
  params = clip_params_from_state_dict(vision_weights.filled(vision_weights.clip_shapes()))
  features = jax.jit(vision_transformer.clip_features)
  return lambda images: features(params, images)


def test_dinov2(dinov2, golden):
  features = dinov2(vision_weights.images('dinov2', 224, 224))
  assert features.dtype == np.float32
  assert reference.relative_error(features, golden['dinov2']) < 1e-5


def test_dinov2_of_another_size(dinov2, golden):
  features = dinov2(vision_weights.images('dinov2/resized', 256, 200))
  assert reference.relative_error(features, golden['dinov2_resized']) < 1e-5


def test_clip(clip, golden):
  features = clip(vision_weights.images('clip', CLIP_SIDE, CLIP_SIDE))
  assert features.dtype == np.float32
  assert reference.relative_error(features, golden['clip']) < 1e-5
  np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-6)


def test_clip_of_another_size(clip, golden):
  features = clip(vision_weights.images('clip/resized', 70, 90))
  assert reference.relative_error(features, golden['clip_resized']) < 1e-5


def test_clip_takes_the_middle_square(clip):
  images = vision_weights.images('clip/middle', 90, 71)
  np.testing.assert_array_equal(clip(images), clip(images[:, 9:80]))


def test_dinov2_takes_the_whole_image(dinov2):
  images = vision_weights.images('dinov2/whole', 224, 230)
  changed = images.copy()
  changed[:, :, :14] = 255 - changed[:, :, :14]
  assert np.abs(dinov2(images) - dinov2(changed)).max() > 0.01


@pytest.mark.parametrize('height,width,side', [
    (64, 64, 56), (128, 128, 56), (48, 48, 63), (33, 33, 33), (37, 90, 56), (90, 37, 56),
    (1, 5, 28)])
@pytest.mark.parametrize('sharp', [False, True])
def test_resize_is_that_of_pillow(height, width, side, sharp):
  images = vision_weights.images('pillow', height, width)
  if sharp:  # overshoots at every edge
    images = (images // 128 * 255).astype(np.uint8)
  # Rows first, in two calls: one call may take the columns first, depending on the version.
  expected = [Image.fromarray(image).resize((side, height), Image.Resampling.BICUBIC).resize(
      (side, side), Image.Resampling.BICUBIC) for image in images]
  np.testing.assert_array_equal(vision_transformer.resize(images, side), np.stack(expected))


def test_depth_and_width_are_those_of_the_arrays():
  shapes = vision_weights.clip_shapes()
  params = clip_params_from_state_dict(vision_weights.filled(
      {name: shape for name, shape in shapes.items() if '.layers.1.' not in name}))
  images = np.zeros((3, 20, 20, 3), np.uint8)
  result = jax.eval_shape(vision_transformer.clip_features, params, images)
  assert result.shape == (3, vision_weights.FEATURES)
  assert params['blocks']['qkv']['kernel'].shape == (
      1, vision_weights.WIDTH, 3 * vision_weights.WIDTH)
