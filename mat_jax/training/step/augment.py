"""Adaptive discriminator augmentation (ADA, arXiv 2006.06676) for inpainting.

The transforms and their order are those of appendix B of the paper: pixel
blitting, general geometric and colour transforms ('bgc'). An example is a tuple
of images and their mask: all get the same geometric transforms, colours change in the images
only, and kept pixels stay equal in all images of the example.

Sampling the transforms (`sample`) is separate from applying them (`apply`), so that real
and generated images can get the same transforms and a batch can be sharded or split. Every
operation is per image, hence the same on any number of devices.
"""

import dataclasses
import functools
import math
from typing import TypeVar

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from mat_jax.errors import UserError
from mat_jax.training.step.warp import Geometry, inverse_matrix, warp

LETTERS = {'b': 'blit', 'g': 'geometric', 'c': 'color'}


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """The kinds of transforms and their strengths; static under `jax.jit`.

  Attributes:
    blit: x-flip, rotation by 90 degrees, translation by whole pixels.
    geometric: scale, rotation, anisotropic scale, translation by fractions.
    color: brightness, contrast, luma flip, hue, saturation.
    translation: largest whole-pixel translation, as a fraction of the side.
    scale_std: standard deviation of log2 of the isotropic scale.
    aspect_std: standard deviation of log2 of the anisotropic scale.
    shift_std: standard deviation of the fractional translation, as a fraction of
      the side.
    brightness_std: standard deviation of the brightness, of images in [-1, 1].
    contrast_std: standard deviation of log2 of the contrast.
    saturation_std: standard deviation of log2 of the saturation.
  """

  blit: bool = True
  geometric: bool = True
  color: bool = True
  translation: float = 0.125
  scale_std: float = 0.2
  aspect_std: float = 0.2
  shift_std: float = 0.125
  brightness_std: float = 0.2
  contrast_std: float = 0.5
  saturation_std: float = 1.0

  @classmethod
  def from_letters(cls, letters: str) -> 'Pipeline':
    """The pipeline of a string such as 'bgc'; '' has no transforms.

    Args:
      letters: any of 'b' (blit), 'g' (geometric) and 'c' (color).

    Returns:
      The pipeline, with the strengths of the paper.

    Raises:
      UserError: for another letter.
    """
    if not set(letters) <= set(LETTERS):
      raise UserError(f"augment.pipeline is {letters!r}; choose letters of 'bgc' (b: flips, "
                      "90-degree rotations and whole-pixel translations, g: geometric, "
                      "c: colour), or '' for no augmentation")
    return cls(**{name: letter in letters for letter, name in LETTERS.items()})


class Color(flax.struct.PyTreeNode):
  """Parameters of the colour transforms of N images, in order of application.

  Attributes:
    brightness: float32 [N], added.
    contrast: float32 [N], factor.
    luma: float32 [N], -1 mirrors the luma, 1 does not.
    hue: float32 [N], radians about the luma axis, from red towards green.
    saturation: float32 [N], factor on the chroma.
  """

  brightness: jax.Array
  contrast: jax.Array
  luma: jax.Array
  hue: jax.Array
  saturation: jax.Array

  @classmethod
  def neutral(cls, batch_size: int) -> 'Color':
    """The parameters that leave the colours of `batch_size` images."""
    zeros, ones = jnp.zeros(batch_size), jnp.ones(batch_size)
    return cls(brightness=zeros, contrast=ones, luma=ones, hue=zeros, saturation=ones)


Parameters = TypeVar('Parameters', Geometry, Color)


class Transforms(flax.struct.PyTreeNode):
  """The transforms of the N images of a batch; every leaf can be split along N.

  Attributes:
    inverse: float32 [N, 3, 3], output to input positions, see `warp.warp`.
    warped: bool [N], whether `inverse` is to be applied; both are None in a
      pipeline without blit and geometric.
    color: float32 [N, 3, 4], RGB1 to RGB.
    recolored: bool [N], whether `color` is to be applied; both are None in a
      pipeline without color.
  """

  inverse: jax.Array | None = None
  warped: jax.Array | None = None
  color: jax.Array | None = None
  recolored: jax.Array | None = None


def _fire(key: jax.Array, sampled: dict[str, jax.Array], neutral: Parameters,
          probabilities: dict[str, jax.Array]) -> Parameters:
  """Replaces each neutral parameter of each image with its own probability."""
  fired = {}
  for name, name_key in zip(sampled, jax.random.split(key, len(sampled)), strict=True):
    value = sampled[name]
    hit = jax.random.uniform(name_key, value.shape[:1]) < probabilities[name]
    hit = hit.reshape(-1, *[1] * (value.ndim - 1))
    fired[name] = jnp.where(hit, value, getattr(neutral, name))
  return neutral.replace(**fired)


def _log_normal(key: jax.Array, batch_size: int, std: float) -> jax.Array:
  return jnp.exp2(std * jax.random.normal(key, (batch_size,)))


def _angle(key: jax.Array, batch_size: int) -> jax.Array:
  return jax.random.uniform(key, (batch_size,), minval=-math.pi, maxval=math.pi)


def _sample_blit(key: jax.Array, batch_size: int, pipeline: Pipeline,
               side: int) -> dict[str, jax.Array]:
  flip_key, turn_key, translation_key = jax.random.split(key, 3)
  fraction = jax.random.uniform(
      translation_key, (batch_size, 2), minval=-pipeline.translation, maxval=pipeline.translation)
  return {
      'flip': jax.random.rademacher(flip_key, (batch_size,), jnp.float32),
      'quarter_turns': jax.random.randint(turn_key, (batch_size,), 0, 4),
      'translation': jnp.round(fraction * side)}


def _sample_geometric(key: jax.Array, batch_size: int, pipeline: Pipeline, height: int,
                    width: int) -> dict[str, jax.Array]:
  scale_key, pre_key, aspect_key, post_key, shift_key = jax.random.split(key, 5)
  fraction = pipeline.shift_std * jax.random.normal(shift_key, (batch_size, 2))
  return {
      'scale': _log_normal(scale_key, batch_size, pipeline.scale_std),
      'pre_rotation': _angle(pre_key, batch_size),
      'aspect': _log_normal(aspect_key, batch_size, pipeline.aspect_std),
      'post_rotation': _angle(post_key, batch_size),
      'shift': fraction * jnp.array([width, height])}


def sample_geometry(key: jax.Array, batch_size: int, probability: jax.Array, pipeline: Pipeline,
                  height: int, width: int) -> Geometry:
  """Random parameters of the geometric transforms.

  Args:
    key: PRNG key.
    batch_size: number N of images.
    probability: float32 [] in [0, 1], of each transform in each image. The two
      rotations have 1 - sqrt(1 - probability) each, so that an image is rotated
      with `probability`.
    pipeline: kinds and strengths.
    height: of the images, in pixels.
    width: of the images.

  Returns:
    Parameters, neutral where a transform does not fire.

  Raises:
    ValueError: if `pipeline.blit` shall turn images that are not square.
  """
  if pipeline.blit and height != width:
    raise ValueError(f'quarter turns need square images, not {height} x {width}')
  value_key, blit_key, geometric_key = jax.random.split(key, 3)
  sampled: dict[str, jax.Array] = {}
  if pipeline.blit:
    sampled |= _sample_blit(blit_key, batch_size, pipeline, width)
  if pipeline.geometric:
    sampled |= _sample_geometric(geometric_key, batch_size, pipeline, height, width)
  probabilities = dict.fromkeys(sampled, probability)
  if pipeline.geometric:
    either = 1 - jnp.sqrt(1 - probability)
    probabilities |= {'pre_rotation': either, 'post_rotation': either}
  return _fire(value_key, sampled, Geometry.neutral(batch_size), probabilities)


def sample_color(key: jax.Array, batch_size: int, probability: jax.Array,
               pipeline: Pipeline) -> Color:
  """Random parameters of the colour transforms.

  Args:
    key: PRNG key.
    batch_size: number N of images.
    probability: float32 [] in [0, 1], of each transform in each image.
    pipeline: strengths.

  Returns:
    Parameters, neutral where a transform does not fire.
  """
  fire_key, brightness_key, contrast_key, luma_key, hue_key, saturation_key = (
      jax.random.split(key, 6))
  sampled = {
      'brightness': pipeline.brightness_std * jax.random.normal(brightness_key, (batch_size,)),
      'contrast': _log_normal(contrast_key, batch_size, pipeline.contrast_std),
      'luma': jax.random.rademacher(luma_key, (batch_size,), jnp.float32),
      'hue': _angle(hue_key, batch_size),
      'saturation': _log_normal(saturation_key, batch_size, pipeline.saturation_std)}
  return _fire(fire_key, sampled, Color.neutral(batch_size), dict.fromkeys(sampled, probability))


def color_matrix(color: Color) -> jax.Array:
  """The transforms of `color`, one after the other.

  All of them keep the luma axis (1, 1, 1) and the plane of the chroma, so each
  multiplies the luma by a number and turns or scales the chroma.

  Args:
    color: parameters of N images.

  Returns:
    float32 [N, 3, 4], takes (R, G, B, 1) to the new (R, G, B).
  """
  luma = np.full((3, 3), 1 / 3, np.float32)
  chroma = np.eye(3, dtype=np.float32) - luma
  quarter_turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / math.sqrt(3)
  contrast, sign, hue, saturation = (
      value[:, None, None]
      for value in (color.contrast, color.luma, color.hue, color.saturation))
  turned = jnp.cos(hue) * chroma + jnp.sin(hue) * quarter_turn
  linear = contrast * (sign * luma + saturation * turned)
  offset = jnp.tile(contrast * sign * color.brightness[:, None, None], (1, 3, 1))
  return jnp.concatenate([linear, offset], -1)


def _differs(parameters: Parameters, neutral: Parameters) -> jax.Array:
  """bool [N]: whether any parameter of an image is not the neutral one."""
  different = jax.tree.map(
      lambda a, b: jnp.any((a != b).reshape(len(a), -1), -1), parameters, neutral)
  return functools.reduce(jnp.logical_or, jax.tree.leaves(different))


def sample(key: jax.Array, batch_size: int, probability: jax.Array, pipeline: Pipeline,
         height: int, width: int) -> Transforms:
  """Random transforms of a batch.

  Args:
    key: PRNG key.
    batch_size: number N of examples.
    probability: float32 [] in [0, 1], of each transform in each example.
    pipeline: kinds and strengths.
    height: of the images, in pixels.
    width: of the images.

  Returns:
    The transforms. An example for which none fired, or only such as happened to
    change nothing (half of the flips, for one), is marked as untouched.

  Raises:
    ValueError: if `pipeline.blit` shall turn images that are not square.
  """
  geometry_key, color_key = jax.random.split(key)
  transforms = Transforms()
  if pipeline.blit or pipeline.geometric:
    geometry = sample_geometry(geometry_key, batch_size, probability, pipeline, height, width)
    transforms = transforms.replace(
        inverse=inverse_matrix(geometry),
        warped=_differs(geometry, Geometry.neutral(batch_size)))
  if pipeline.color:
    color = sample_color(color_key, batch_size, probability, pipeline)
    transforms = transforms.replace(
        color=color_matrix(color), recolored=_differs(color, Color.neutral(batch_size)))
  return transforms


def _choose(flags: jax.Array, changed: jax.Array, unchanged: jax.Array) -> jax.Array:
  return jnp.where(flags.reshape(-1, *[1] * (changed.ndim - 1)), changed, unchanged)


def _move(transforms: Transforms, images: jax.Array,
          mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Warps images [N, H, W, K, 3] and mask [N, H, W, 1] of each example at once."""
  assert transforms.inverse is not None and transforms.warped is not None
  n, height, width, count, channels = images.shape
  flat = images.reshape(n, height, width, count * channels)
  moved = warp(jnp.concatenate([flat, mask], -1), transforms.inverse)
  moved_mask = (moved[..., -1:] >= 0.5).astype(mask.dtype)
  moved_images = moved[..., :-1].reshape(images.shape)
  # The filters spread the contents of the hole a few pixels beyond it.
  kept = moved_mask[..., None] > 0
  moved_images = jnp.where(kept, moved_images[..., :1, :], moved_images)
  return (_choose(transforms.warped, moved_images, images),
          _choose(transforms.warped, moved_mask, mask))


def _recolor(transforms: Transforms, images: jax.Array) -> jax.Array:
  """Applies each example's colour matrix to its images [N, H, W, K, 3]."""
  assert transforms.color is not None and transforms.recolored is not None
  linear, offset = transforms.color[..., :3], transforms.color[..., 3]
  recolored = jnp.einsum('nij,nhwkj->nhwki', linear, images, precision=lax.Precision.HIGHEST)
  recolored += offset[:, None, None, None, :]
  return _choose(transforms.recolored, recolored, images)


def apply(transforms: Transforms, images: tuple[jax.Array, ...], mask: jax.Array,
          active: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """Transforms the images of each example and its mask.

  Differentiable to any order in the images; no gradient flows to the mask. Kept
  pixels of a warped example come from `images[0]` in all images, gradients
  included: a penalty on the gradient of each image on its own wants one call per
  image.

  Args:
    transforms: of N examples, from `sample`.
    images: each [N, H, W, 3] in [-1, 1]; where the mask keeps, all equal.
    mask: [N, H, W, 1], 1 keeps, 0 is a hole.
    active: bool [], False leaves everything as it is and skips the work: pass
      `probability > 0` of the probability that `transforms` was sampled with. A
      test of the flags in `transforms` would have to wait for all devices.

  Returns:
    The images and the mask, of the same shapes and dtypes; colours may leave
    [-1, 1], the mask stays binary. Untouched examples are the same to the bit.
  """
  mask = lax.stop_gradient(mask)

  def change(images, mask):
    stack = jnp.stack([image.astype(jnp.float32) for image in images], 3)
    new_mask = mask
    if transforms.inverse is not None:
      stack, new_mask = _move(transforms, stack, mask.astype(jnp.float32))
    if transforms.color is not None:
      stack = _recolor(transforms, stack)
    return (tuple(stack[..., i, :].astype(image.dtype) for i, image in enumerate(images)),
            new_mask.astype(mask.dtype))

  return lax.cond(active, change, lambda images, mask: (images, mask), images, mask)


def adapt(probability: jax.Array, sign_sum: jax.Array, sign_count: jax.Array, *, target: float,
          step_size: float, max_probability: float) -> jax.Array:
  """Adjusts the probability so that the mean sign of D on real images approaches a target.

  The heuristic r_t of section 3 of the paper: a discriminator that is too sure of
  real images overfits and gets stronger augmentation.

  Args:
    probability: float32 [], so far.
    sign_sum: float32 [], sum of sign(D(real)) since the last call.
    sign_count: float32 [], number of signs in the sum; 0 changes nothing.
    target: of the mean sign, 0.6 in the paper.
    step_size: by which the probability changes.
    max_probability: upper bound; beyond 0.8 or so augmentations start to leak
      into what is generated (figure 2 and section 2.2 of the paper).

  Returns:
    float32 [] in [0, max_probability].
  """
  direction = jnp.sign(sign_sum / jnp.maximum(sign_count, 1) - target)
  moved = jnp.clip(probability + direction * step_size, 0, max_probability)
  return jnp.where(sign_count > 0, moved, probability)
