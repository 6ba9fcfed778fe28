"""The Inception of 2015-12-05 that FID, KID and IDS are defined with.

Szegedy et al., "Rethinking the Inception Architecture" (arXiv 1512.00567), in the
variant of that TensorFlow graph: average pools leave the padding out of their count,
the pool branch of the last block is a max pool, and there are 1008 classes. Heusel et
al. (arXiv 1706.08500) took the 2048 pooled features.

Pure functions over {'Mixed_5b.branch1x1': {'kernel', 'bias'}, ...} with the batch
normalisation folded in, images NHWC. `convert.feature_nets` reads the weights.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Params = Mapping[str, Mapping[str, jax.Array]]

FEATURES = 2048
CLASSES = 1008
_SIDE = 299


class _Conv(NamedTuple):
  """A convolution, its normalisation and its ReLU."""
  name: str
  height: int
  width: int
  outputs: int
  stride: int = 1
  padding: str = 'SAME'


class _Pool(NamedTuple):
  """A pooling over 3 x 3."""
  kind: str
  stride: int = 1
  padding: str = 'SAME'


# A block is a list of branches whose results are concatenated, a branch a sequence of
# convolutions, poolings and blocks.
_AVG, _MAX, _HALVE = _Pool('avg'), _Pool('max'), _Pool('max', 2, 'VALID')


def _plain_block(pool_width: int) -> list[list[Any]]:
  return [[_Conv('branch1x1', 1, 1, 64)],
          [_Conv('branch5x5_1', 1, 1, 48), _Conv('branch5x5_2', 5, 5, 64)],
          [_Conv('branch3x3dbl_1', 1, 1, 64), _Conv('branch3x3dbl_2', 3, 3, 96),
           _Conv('branch3x3dbl_3', 3, 3, 96)],
          [_AVG, _Conv('branch_pool', 1, 1, pool_width)]]


def _factorised_block(width: int) -> list[list[Any]]:
  return [[_Conv('branch1x1', 1, 1, 192)],
          [_Conv('branch7x7_1', 1, 1, width), _Conv('branch7x7_2', 1, 7, width),
           _Conv('branch7x7_3', 7, 1, 192)],
          [_Conv('branch7x7dbl_1', 1, 1, width), _Conv('branch7x7dbl_2', 7, 1, width),
           _Conv('branch7x7dbl_3', 1, 7, width), _Conv('branch7x7dbl_4', 7, 1, width),
           _Conv('branch7x7dbl_5', 1, 7, 192)],
          [_AVG, _Conv('branch_pool', 1, 1, 192)]]


def _expanded_block(pool: _Pool) -> list[list[Any]]:
  return [[_Conv('branch1x1', 1, 1, 320)],
          [_Conv('branch3x3_1', 1, 1, 384),
           [[_Conv('branch3x3_2a', 1, 3, 384)], [_Conv('branch3x3_2b', 3, 1, 384)]]],
          [_Conv('branch3x3dbl_1', 1, 1, 448), _Conv('branch3x3dbl_2', 3, 3, 384),
           [[_Conv('branch3x3dbl_3a', 1, 3, 384)], [_Conv('branch3x3dbl_3b', 3, 1, 384)]]],
          [pool, _Conv('branch_pool', 1, 1, 192)]]


_STEM = (_Conv('Conv2d_1a_3x3', 3, 3, 32, 2, 'VALID'),
         _Conv('Conv2d_2a_3x3', 3, 3, 32, padding='VALID'),
         _Conv('Conv2d_2b_3x3', 3, 3, 64), _HALVE,
         _Conv('Conv2d_3b_1x1', 1, 1, 80),
         _Conv('Conv2d_4a_3x3', 3, 3, 192, padding='VALID'), _HALVE)
_BLOCKS = {
    'Mixed_5b': _plain_block(32), 'Mixed_5c': _plain_block(64), 'Mixed_5d': _plain_block(64),
    'Mixed_6a': [[_Conv('branch3x3', 3, 3, 384, 2, 'VALID')],
                 [_Conv('branch3x3dbl_1', 1, 1, 64), _Conv('branch3x3dbl_2', 3, 3, 96),
                  _Conv('branch3x3dbl_3', 3, 3, 96, 2, 'VALID')],
                 [_HALVE]],
    'Mixed_6b': _factorised_block(128), 'Mixed_6c': _factorised_block(160),
    'Mixed_6d': _factorised_block(160), 'Mixed_6e': _factorised_block(192),
    'Mixed_7a': [[_Conv('branch3x3_1', 1, 1, 192), _Conv('branch3x3_2', 3, 3, 320, 2, 'VALID')],
                 [_Conv('branch7x7x3_1', 1, 1, 192), _Conv('branch7x7x3_2', 1, 7, 192),
                  _Conv('branch7x7x3_3', 7, 1, 192), _Conv('branch7x7x3_4', 3, 3, 192, 2, 'VALID')],
                 [_HALVE]],
    'Mixed_7b': _expanded_block(_AVG), 'Mixed_7c': _expanded_block(_MAX),
}


def convolution_shapes() -> dict[str, tuple[int, int, int, int]]:
  """Shapes of the kernels by layer, [height, width, in, out]."""
  shapes: dict[str, tuple[int, int, int, int]] = {}

  def visit(steps: Any, prefix: str, channels: int) -> int:
    for step in steps:
      if isinstance(step, list):
        channels = sum(visit(branch, prefix, channels) for branch in step)
      elif isinstance(step, _Conv):
        shapes[prefix + step.name] = (step.height, step.width, channels, step.outputs)
        channels = step.outputs
    return channels

  channels = visit(_STEM, '', 3)
  for name, branches in _BLOCKS.items():
    channels = visit([branches], f'{name}.', channels)
  return shapes


def inception_features(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pooled features, and the logits without their bias.

  Args:
    params: layer -> {'kernel', 'bias'}. Inside `jax.jit` pass it as an argument,
      lest the weights become constants of the compiled function.
    images: [N, H, W, 3] in 0..255, rounded to whole numbers beforehand.

  Returns:
    float32 [N, 2048] (pool3) and [N, 1008].
  """
  # (x - 128) / 128 is the input range of that graph.
  x = (resize(images.astype(jnp.float32)) - 128.0) / 128.0
  x = _run(params, _STEM, '', x)
  for name, branches in _BLOCKS.items():
    x = _run(params, [branches], f'{name}.', x)
  pooled = jnp.mean(x, (1, 2))
  return pooled, pooled @ params['fc']['kernel']


def resize(images: jax.Array, side: int = _SIDE) -> jax.Array:
  """Bilinear resize as TensorFlow 1 did it: sample i lies at i * scale, no antialiasing.

  Args:
    images: float [N, H, W, C].
    side: of the result.

  Returns:
    [N, side, side, C].
  """
  rows, columns = (_interpolation(n, side) for n in images.shape[1:3])
  return jnp.einsum('ih,nhwc,jw->nijc', rows, images, columns,
                    precision=jax.lax.Precision.HIGHEST)


def _interpolation(size: int, side: int) -> np.ndarray:
  """float32 [side, size]: the weights of the inputs in each output."""
  position = np.arange(side, dtype=np.float32) * np.float32(size / side)
  low = np.minimum(np.floor(position).astype(int), size - 1)
  high = np.minimum(low + 1, size - 1)
  fraction = (position - low)[:, None]
  one_hot = np.eye(size, dtype=np.float32)
  return (1 - fraction) * one_hot[low] + fraction * one_hot[high]


def _run(params: Params, steps: Any, prefix: str, x: jax.Array) -> jax.Array:
  for step in steps:
    if isinstance(step, list):
      x = jnp.concatenate([_run(params, branch, prefix, x) for branch in step], -1)
    elif isinstance(step, _Conv):
      x = _convolve(params[prefix + step.name], x, step)
    else:
      x = _pool(x, step)
  return x


def _convolve(params: Mapping[str, jax.Array], x: jax.Array, conv: _Conv) -> jax.Array:
  x = jax.lax.conv_general_dilated(
      x, params['kernel'], window_strides=(conv.stride, conv.stride), padding=conv.padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jax.nn.relu(x + params['bias'])


def _pool(x: jax.Array, pool: _Pool) -> jax.Array:
  window, strides = (1, 3, 3, 1), (1, pool.stride, pool.stride, 1)
  if pool.kind == 'max':
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, pool.padding)
  inside = np.ones((1, *x.shape[1:3], 1), np.float32)
  total, count = (jax.lax.reduce_window(v, 0.0, jax.lax.add, window, strides, pool.padding)
                  for v in (x, inside))
  return total / count
