"""The transformer body of stage one (MAT, section 3.3).

Its parts, by the paper's names:

- adjusted transformer block (`TransformerBlock`): no layer normalisation; attention and input
  are fused by concatenation and a dense layer instead of a residual connection.
- multi-head contextual attention, MCA (`WindowAttention`): attends over the valid tokens of
  shifted windows (Swin, arXiv 2103.14030), without position bias; an attention mask excludes
  invalid tokens, those of the hole.
- mask updating (in `TransformerBlock`, and in `PartialConv2d` by its own rule): once a window
  holds a valid token, all of its tokens are valid for the next block.

Feature maps stay [N, H, W, C] throughout; masks are [N, H, W, 1], 1 where a token is valid.
"""

import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from mat_jax.nn.layers import Conv2d, FullyConnected, FullyConnectedWeights
from mat_jax.ops.float16 import upcast
from mat_jax.ops.implementation import PORTABLE, Implementation

_MASKED_LOGIT = -100.0
_OTHER_WINDOW_LOGIT = -1e9  # of logits: no float32 exponential is left of it


class PartialConv2d(nn.Module):
  """Partial convolution: renormalises by the valid part of its window (arXiv 1804.07723).

  Its mask updating: an output position is valid if its window holds any valid input.

  Attributes:
    features: output channels.
    kernel_size: odd.
    activation: 'linear' or 'lrelu'.
    up: 1 or 2 (without a mask).
    down: 1 or 2.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  kernel_size: int
  activation: str = 'lrelu'
  up: int = 1
  down: int = 1
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array,
               mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """[N, H, W, in] and its mask or None -> output and updated mask or None."""
    y = Conv2d(self.features, self.kernel_size, self.activation, self.up, self.down,
               implementation=self.implementation, name='conv')(x)
    if mask is None:
      return y, None
    area, pad = self.kernel_size**2, self.kernel_size // 2
    valid = lax.reduce_window(
        lax.stop_gradient(mask), 0.0, lax.add, (1, self.kernel_size, self.kernel_size, 1),
        (1, self.down, self.down, 1), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    updated = jnp.clip(valid, 0.0, 1.0)
    ratio = area / (valid + 1e-8) * updated
    return y * ratio.astype(y.dtype), updated


def window_partition(x: jax.Array, window: int) -> jax.Array:
  """[N, H, W, C] -> [N * windows, window * window, C], windows in row order."""
  n, h, w, c = x.shape
  x = x.reshape(n, h // window, window, w // window, window, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)


def window_reverse(x: jax.Array, window: int, height: int, width: int) -> jax.Array:
  """Inverse of `window_partition`: -> [N, height, width, C]."""
  rows, columns, c = height // window, width // window, x.shape[-1]
  x = x.reshape(-1, rows, columns, window, window, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, c)


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
  """Attention mask of shifted windows, added to the logits (as in Swin).

  Returns:
    float32 [windows, tokens, tokens]: 0 between tokens that were neighbours
    before the cyclic shift, -100 between regions that came from opposite borders.
  """
  def regions(size: int) -> np.ndarray:
    position = np.arange(size)
    return (position >= size - window).astype(int) + (position >= size - shift)

  labels = 3 * regions(height)[:, None] + regions(width)[None, :]
  labels = labels.reshape(height // window, window, width // window, window)
  labels = labels.transpose(0, 2, 1, 3).reshape(-1, window * window)
  same = labels[:, :, None] == labels[:, None, :]
  return np.where(same, 0.0, _MASKED_LOGIT).astype(np.float32)


def pack_windows(bias: np.ndarray | None, tokens: int, count: int) -> np.ndarray | None:
  """Attention mask for window packing: `count` neighbouring windows computed as one.

  Args:
    bias: float32 [windows, tokens, tokens], added to the logits; None for no bias.
    tokens: number of tokens of one window.
    count: number of windows to pack; divides the number of windows.

  Returns:
    Block-diagonal float32 [windows / count, count * tokens, count * tokens]: `bias` within a
    window, and between windows a logit so low that the attention weight is 0. [1, ...] if `bias`
    is None and `count` is above 1; `bias` itself if `count` is 1.
  """
  if count == 1:
    return bias
  within = np.zeros((1, count, tokens, tokens)) if bias is None else bias.reshape(
      -1, count, tokens, tokens)
  packed = np.full((len(within), count, tokens, count, tokens), _OTHER_WINDOW_LOGIT, np.float32)
  for i in range(count):
    packed[:, i, :, i] = within[:, i]
  return packed.reshape(len(within), count * tokens, count * tokens)


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
  """x / max(|x|, epsilon) over the last axis; the gradient at 0 is 0.

  It would be 1 / epsilon. Tokens without a valid pixel are 0 until biases have been learnt, and
  such gradients of the biases before them stay in Adam's second moments for thousands of steps.
  In float16 `epsilon` is at least 1e-4.
  """
  if x.dtype == jnp.float16:
    epsilon = max(epsilon, 1e-4)
  power = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
  inverse = jnp.where(power > 0.0, lax.rsqrt(jnp.maximum(power, epsilon**2)), 0.0)
  return (upcast(x) * inverse).astype(x.dtype)


def _key_bias(mask: jax.Array) -> jax.Array:
  """Mask of keys [B, T, 1] -> attention mask, float32 [B, 1, T]: -100 for invalid keys."""
  return jnp.where(mask == 0.0, _MASKED_LOGIT, 0.0).swapaxes(1, 2)


class WindowAttention(nn.Module):
  """Multi-head contextual attention, MCA (MAT, section 3.3), within windows.

  Attends over valid tokens only: an attention mask excludes invalid keys. Queries and keys are
  projected from L2-normalised tokens, values from the tokens themselves.

  Attributes:
    heads: number of heads; divides the width.
    implementation: dtype, and the implementation of the heavy operations.
  """

  heads: int
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, tokens: jax.Array, bias: np.ndarray | None,
               mask: jax.Array | None) -> jax.Array:
    """Attention of every window.

    Args:
      tokens: [B, T, C], B = images * windows, windows innermost.
      bias: [windows, T, T] added to the logits, or None.
      mask: [B, T, 1], 1 = valid key, or None.

    Returns:
      [B, T, C].
    """
    if self._is_kernel(tokens):
      return self._by_kernel(tokens, bias, mask)
    shape = tokens.shape
    packed = self._packed_windows(shape, bias)
    bias = pack_windows(bias, shape[1], packed)
    tokens = tokens.reshape(-1, packed * shape[1], shape[2])
    mask = None if mask is None else mask.reshape(*tokens.shape[:2], 1)
    b, t, c = tokens.shape
    head_dim = c // self.heads

    def project(name: str, x: jax.Array) -> jax.Array:
      return FullyConnected(c, implementation=self.implementation, name=name)(x)

    normalized = l2_normalize(tokens)
    query = project('q', normalized).reshape(b, t, self.heads, head_dim)
    key = project('k', normalized).reshape(b, t, self.heads, head_dim)
    value = project('v', tokens).reshape(b, t, self.heads, head_dim)
    logits = jnp.einsum('bqhd,bkhd->bhqk', query * head_dim**-0.5, key).astype(jnp.float32)
    if bias is not None:
      windows = bias.shape[0]
      logits = logits.reshape(b // windows, windows, self.heads, t, t) + bias[None, :, None]
      logits = logits.reshape(b, self.heads, t, t)
    if mask is not None:
      logits = logits + _key_bias(mask)[:, None]
    # The softmax is normalised after the matmul with the values: that spares passes over
    # [b, h, t, t] in the backward pass, the largest memory traffic of the stage, as do
    # exponentials that are not in float32. The maximum cancels and has no gradient.
    highest = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp((logits - highest).astype(value.dtype))
    total = jnp.sum(weights, axis=-1, dtype=jnp.float32).swapaxes(1, 2)[..., None]
    y = jnp.einsum('bhqk,bkhd->bqhd', weights, value) / total
    y = y.astype(value.dtype).reshape(b, t, c)
    return project('proj', y).reshape(shape)

  def _is_kernel(self, tokens: jax.Array) -> bool:
    """Whether to use `window_kernel`, which needs the per-device batch (inside shard_map)."""
    return (self.implementation.attention == 'kernel' and tokens.shape[1] % 8 == 0
            and bool(jax.sharding.get_abstract_mesh().manual_axes))

  def _by_kernel(self, tokens: jax.Array, bias: np.ndarray | None,
                 mask: jax.Array | None) -> jax.Array:
    from mat_jax.ops import window_kernel  # Pallas takes long to import, and only TPUs need it

    c = tokens.shape[-1]

    def weights(name: str) -> tuple[jax.Array, jax.Array]:
      kernel, bias = FullyConnectedWeights(c, implementation=self.implementation, name=name)(c)
      return kernel, bias[None]

    return window_kernel.attend(
        tokens.astype(self.implementation.dtype),
        window_kernel.Weights(*map(weights, ('q', 'k', 'v', 'proj'))), self.heads, bias,
        None if mask is None else _key_bias(mask))

  def _packed_windows(self, shape: tuple[int, ...], bias: np.ndarray | None) -> int:
    """Number of windows of [B, T, C] tokens to compute together (window packing)."""
    windows = shape[0] if bias is None else bias.shape[0]
    most = self.implementation.attention_tokens // shape[1]
    return math.gcd(windows, most) if most > 1 else 1  # without asking a symbolic batch


class Mlp(nn.Module):
  """Two dense layers, leaky ReLU between them.

  Attributes:
    hidden: width of the hidden layer.
    implementation: dtype, and the implementation of the heavy operations.
  """

  hidden: int
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., C] -> [..., C]."""
    y = FullyConnected(self.hidden, 'lrelu', implementation=self.implementation, name='fc1')(x)
    return FullyConnected(x.shape[-1], implementation=self.implementation, name='fc2')(y)


class TransformerBlock(nn.Module):
  """Adjusted transformer block (MAT, section 3.3): MCA, fusion, MLP, mask updating.

  In contrast to a standard transformer block it has no layer normalisation, and instead of a
  residual connection it concatenates input and attention and fuses them by a dense layer.
  Mask updating: where a window has at least one valid token, all its tokens become valid; a
  window without any stays invalid.

  Attributes:
    heads: attention heads.
    window: side of a window; divides both sides of the map.
    shift: cyclic shift before the windows are cut; 0 for none.
    mlp_ratio: hidden width of the MLP over its width.
    implementation: dtype, and the implementation of the heavy operations.
  """

  heads: int
  window: int
  shift: int = 0
  mlp_ratio: float = 2.0
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array,
               mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """[N, H, W, C] and mask [N, H, W, 1] or None -> the same shapes."""
    _, h, w, c = x.shape
    if h % self.window or w % self.window:
      raise ValueError(f'windows of {self.window} do not divide a map of {h} x {w}')
    bias = shift_mask(h, w, self.window, self.shift) if self.shift else None

    def to_windows(y: jax.Array) -> jax.Array:
      if self.shift:
        y = jnp.roll(y, (-self.shift, -self.shift), (1, 2))
      return window_partition(y, self.window)

    def to_map(y: jax.Array) -> jax.Array:
      y = window_reverse(y, self.window, h, w)
      return jnp.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y

    mask_windows = None if mask is None else to_windows(mask)
    attended = WindowAttention(self.heads, self.implementation, name='attn')(
        to_windows(x), bias, mask_windows)
    if mask_windows is not None:
      seen = jnp.max(mask_windows, axis=1, keepdims=True)
      mask = to_map(jnp.broadcast_to(seen, mask_windows.shape))
    fused = jnp.concatenate([x, to_map(attended)], axis=-1)
    y = FullyConnected(c, 'lrelu', implementation=self.implementation, name='fuse')(fused)
    y = Mlp(int(c * self.mlp_ratio), self.implementation, name='mlp')(y)
    return y, mask


class TransformerStage(nn.Module):
  """Resampling, adjusted transformer blocks, a partial convolution, a residual connection.

  Attributes:
    depth: number of blocks; odd ones shift their windows.
    heads: attention heads.
    window: side of a window.
    resolution: side of the map at the network's native resolution; windows that
      cover it are not shifted, on larger inputs neither.
    up: resampling of the input, 1 or 2.
    down: resampling of the input, 1 or 2.
    implementation: dtype, and the implementation of the heavy operations.
  """

  depth: int
  heads: int
  window: int
  resolution: int
  up: int = 1
  down: int = 1
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array,
               mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """[N, H, W, C] -> [N, H * up / down, W * up / down, C], and the mask likewise."""
    width = x.shape[-1]
    if (self.up, self.down) != (1, 1):
      x, mask = PartialConv2d(width, 3, up=self.up, down=self.down,
                              implementation=self.implementation, name='downsample')(x, mask)
    shortcut = x
    window = min(self.window, self.resolution)
    for i in range(self.depth):
      shift = window // 2 if i % 2 and self.resolution > window else 0
      block = self.implementation.block(TransformerBlock)
      x, mask = block(self.heads, window, shift, implementation=self.implementation,
                      name=f'blocks_{i}')(x, mask)
    x, mask = PartialConv2d(width, 3, implementation=self.implementation, name='conv')(x, mask)
    return x + shortcut, mask
