"""DINOv2 and CLIP as feature extractors of whole images.

Both are pre-norm vision transformers (Dosovitskiy et al., arXiv 2010.11929). DINOv2 (Oquab
et al., arXiv 2304.07193) gives the features of FD-DINOv2 (Stein et al., arXiv 2306.04675),
CLIP (Radford et al., arXiv 2103.00020) those of CMMD (Jayasumana et al., arXiv 2401.09603).

Pure functions over a dict of parameters that `convert.vision_transformer_weights` reads, images
NHWC; W is the width, D the number of blocks, P the side of a patch and G that of the grid
of patches:

  patches          {'kernel': [P, P, 3, W]}
  class_token      [W], its position included
  positions        [G, G, W], the bias of the patches included
  pre_norm         {'scale': [W], 'bias': [W]}, before the first block; CLIP alone has it
  blocks           {'norm1', 'qkv', 'out', 'norm2', 'mlp_in', 'mlp_out'}, each with a leading
                   axis of D: {'scale', 'bias'} of norms, {'kernel': [D, in, out], 'bias'} of
                   matmuls; LayerScale (arXiv 2103.17239) is folded into 'out' and 'mlp_out'
  norm             {'scale': [W], 'bias': [W]}
  projection       [W, features]; CLIP alone has it

All sizes are those of the arrays, images are resized to G * P. Matmuls are float32 on
every device, as in the published metrics.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mat_jax.features import vgg

Params = Mapping[str, Any]

HEAD_WIDTH = 64  # of every published size of both networks
_WEIGHT_BITS = 22  # of Pillow's resize
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def dinov2_features(params: Params, images: jax.Array) -> jax.Array:
  """Class token of DINOv2 after the last norm, the features of FD-DINOv2.

  As Stein et al. do it, images that are not square lose their proportions.

  Args:
    params: see above. Inside `jax.jit` pass it as an argument, lest the weights become
      constants of the compiled function.
    images: [N, H, W, 3] in 0..255, whole numbers of any type.

  Returns:
    float32 [N, width].
  """
  x = vgg.imagenet_normalize(resize(images, input_side(params)) / 127.5 - 1)
  return _encode(params, x, functools.partial(jax.nn.gelu, approximate=False), 1e-6)


def clip_features(params: Params, images: jax.Array) -> jax.Array:
  """Image embedding of CLIP on the unit sphere, the features of CMMD.

  As Jayasumana et al. do it, the middle square is cut from images that are not square.

  Args:
    params: see above. Inside `jax.jit` pass it as an argument.
    images: [N, H, W, 3] in 0..255, whole numbers of any type.

  Returns:
    float32 [N, features] of length 1.
  """
  x = resize(_middle_square(images), input_side(params)) / 255
  x = (x - jnp.array(_CLIP_MEAN)) / jnp.array(_CLIP_STD)
  x = _encode(params, x, _quick_gelu, 1e-5)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def input_side(params: Params) -> int:
  """Side of the images inside the network, in pixels."""
  return params['positions'].shape[0] * params['patches']['kernel'].shape[0]


def resize(images: jax.Array, side: int) -> jax.Array:
  """Bicubic resize with antialiasing, equal to Pillow's of 8-bit images in every bit.

  Both metrics were published with Pillow's `Image.resize(..., BICUBIC)`: integer sums along
  rows, then along columns, rounded to whole numbers both times. (Rounding once, after both,
  would change every fifth value. Since version 13 Pillow takes the columns first where the
  height shrinks more than the width; square images are not affected.)

  Args:
    images: [N, H, W, C] in 0..255, whole numbers of any type.
    side: of the result.

  Returns:
    int32 [N, side, side, C] in 0..255.
  """
  x = images.astype(jnp.int32)
  for axis in (2, 1):
    x = jnp.tensordot(x, _bicubic_weights(x.shape[axis], side), (axis, 0))
    half = 1 << (_WEIGHT_BITS - 1)
    x = jnp.clip((jnp.moveaxis(x, -1, axis) + half) >> _WEIGHT_BITS, 0, 255)
  return x


def keys_cubic(distance: np.ndarray, a: float) -> np.ndarray:
  """Kernel of Keys (1981), "Cubic Convolution Interpolation for Digital Image Processing".

  Args:
    distance: from the sample, of either sign.
    a: slope of the kernel at distance 1.

  Returns:
    Weights of the same shape, 0 beyond a distance of 2.
  """
  x = np.abs(distance)
  near = ((a + 2) * x - (a + 3)) * x**2 + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x < 1, near, np.where(x < 2, far, 0))


def _bicubic_weights(size: int, side: int) -> np.ndarray:
  """int32 [size, side]: the weights of the inputs in each output, in 2^-22."""
  scale = size / side
  centers = (np.arange(side) + 0.5) * scale
  # Antialiasing widens the kernel to the distance of the outputs.
  weights = keys_cubic((np.arange(size)[:, None] + 0.5 - centers) / max(scale, 1), a=-0.5)
  weights /= weights.sum(0)
  return np.rint(weights * 2**_WEIGHT_BITS).astype(np.int32)


def _middle_square(images: jax.Array) -> jax.Array:
  height, width = images.shape[1:3]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return images[:, top:top + side, left:left + side]


def _encode(params: Params, images: jax.Array, activation: Callable[[jax.Array], jax.Array],
            epsilon: float) -> jax.Array:
  """The class token after the last norm, and after the projection if there is one.

  Args:
    params: see above.
    images: float32 [N, G * P, G * P, 3], normalised.
    activation: of the hidden layers.
    epsilon: of the norms.

  Returns:
    float32 [N, width or features].
  """
  with jax.default_matmul_precision('float32'):
    x = _embed(params, images)
    if 'pre_norm' in params:
      x = _normalize(params['pre_norm'], x, epsilon)

    def apply_block(x: jax.Array, block: Params) -> tuple[jax.Array, None]:
      x = x + _attend(block, _normalize(block['norm1'], x, epsilon))
      hidden = activation(_dense(block['mlp_in'], _normalize(block['norm2'], x, epsilon)))
      return x + _dense(block['mlp_out'], hidden), None

    # A scan compiles one block, whatever the depth.
    x, _ = jax.lax.scan(apply_block, x, params['blocks'])
    x = _normalize(params['norm'], x[:, 0], epsilon)
    return x @ params['projection'] if 'projection' in params else x


def _embed(params: Params, images: jax.Array) -> jax.Array:
  """The class token and the patches: [N, 1 + G * G, width]."""
  kernel = params['patches']['kernel']
  x = jax.lax.conv_general_dilated(images, kernel, window_strides=kernel.shape[:2],
                                   padding='VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  x = x + params['positions']
  n, _, _, width = x.shape
  first = jnp.broadcast_to(params['class_token'], (n, 1, width))
  return jnp.concatenate([first, x.reshape(n, -1, width)], 1)


def _attend(block: Params, x: jax.Array) -> jax.Array:
  n, tokens, width = x.shape
  qkv = _dense(block['qkv'], x).reshape(n, tokens, 3, width // HEAD_WIDTH, HEAD_WIDTH)
  heads = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
  return _dense(block['out'], heads.reshape(n, tokens, width))


def _normalize(params: Mapping[str, jax.Array], x: jax.Array, epsilon: float) -> jax.Array:
  # JAX's stubs lack `algorithm`.
  x = jax.nn.standardize(x, epsilon=epsilon, algorithm='stable')  # type: ignore[call-arg]
  return x * params['scale'] + params['bias']


def _dense(params: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
  return x @ params['kernel'] + params['bias']


def _quick_gelu(x: jax.Array) -> jax.Array:
  """The approximation of GELU that OpenAI's CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)
