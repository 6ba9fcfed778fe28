"""Stage one of MAT: convolutional head, transformer body, style decoder (MAT, section 3).

The body consists of adjusted transformer blocks with multi-head contextual attention (MCA) and
mask updating (`mat_jax.nn.transformer`). The decoder's style comes from the style manipulation
module (SMM, `FirstStage._mix`).
"""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.nn.blocks import SynthesisBlock, mix_style, resize_linear
from mat_jax.nn.layers import Conv2d, FullyConnected
from mat_jax.nn.sizes import HEADS, LATENT_SIDE, stage1_channels, token_grid
from mat_jax.nn.transformer import PartialConv2d, TransformerStage
from mat_jax.ops.implementation import PORTABLE, Implementation

STAGE_DEPTHS = (2, 3, 4, 3, 2)
STAGE_WINDOWS = (8, 16, 16, 16, 8)


class FirstStage(nn.Module):
  """Stage one: partial convolutions, five transformer stages, a style decoder.

  Attributes:
    resolution: native resolution, the side of the image.
    width: multiplier of its 180 channels.
    implementation: dtype, and the implementation of the heavy operations.
  """

  resolution: int
  width: float = 1.0
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, image: jax.Array, mask: jax.Array, ws: jax.Array,
               keep_mask: jax.Array | None = None) -> jax.Array:
    """Coarse completion.

    Args:
      image: [N, H, W, 3] in [-1, 1].
      mask: [N, H, W, 1].
      ws: [N, num_ws, w_dim].
      keep_mask: 0/1 keep mask of the middle transformer stage, as many entries as its feature
        map [N, h, w, dim] in any shape; None samples it from the RNG stream 'keep'.

    Returns:
      float32 [N, H, W, 3], kept pixels equal to the input's.
    """
    x, valid, skips = self._encode(image, mask)
    x, style = self._transform(x, valid, ws, keep_mask)
    rgb, block = None, self.implementation.block(
        SynthesisBlock, static_argnums=(4,), modulated=True)
    for i, skip in enumerate(reversed(skips)):
      side = self.resolution >> (len(skips) - 1 - i)
      x, rgb = block(x.shape[-1], side, False, self.implementation, name=f'dec_conv_{i}')(
          x, rgb, skip, (style, style, style), 'none')
    assert rgb is not None
    return rgb * (1.0 - mask) + image * mask

  def _encode(self, image: jax.Array,
              mask: jax.Array) -> tuple[jax.Array, jax.Array | None, list[jax.Array]]:
    """Encodes to the token grid -> feature map, updated mask, skip connections."""
    features = stage1_channels(self.width)
    x = jnp.concatenate([mask - 0.5, image * mask], axis=-1)
    x, valid = PartialConv2d(
        features, 3, implementation=self.implementation, name='conv_first')(x, mask)
    skips = []
    for i in range(int(math.log2(self.resolution // token_grid(self.resolution)))):
      skips.append(x)
      x, valid = PartialConv2d(features, 3, down=2, implementation=self.implementation,
                               name=f'enc_conv_{i}')(x, valid)
    return x, valid, skips

  def _transform(self, x: jax.Array, mask: jax.Array | None, ws: jax.Array,
                 keep_mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The five transformer stages -> feature map, and the style of the decoder."""
    grid = token_grid(self.resolution)

    def stage(i: int, up: int = 1, down: int = 1) -> TransformerStage:
      side = grid >> (i if i <= 2 else 4 - i)
      return TransformerStage(STAGE_DEPTHS[i], HEADS, STAGE_WINDOWS[i], side, up, down,
                              implementation=self.implementation, name=f'tran_{i}')

    full, mask = stage(0)(x, mask)
    half, mask = stage(1, down=2)(full, mask)
    x, _ = stage(2, down=2)(half)
    x, style = self._mix(x, ws, keep_mask)
    x = stage(3, up=2)(x)[0] + half
    x = stage(4, up=2)(x)[0] + full
    return x, style

  def _mix(self, x: jax.Array, ws: jax.Array,
           keep_mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Style manipulation module (SMM; MAT, section 3.4) of stage one.

    Replaces random entries of the middle feature map by the noise-unconditional style, derives
    the image-conditional style from the result, and concatenates both.
    """
    n, h, w, features = x.shape
    latent = FullyConnected(features, 'lrelu', implementation=self.implementation,
                            name='ws_style')(ws[:, -1])
    square = FullyConnected(LATENT_SIDE**2, 'lrelu', implementation=self.implementation,
                            name='to_square')(latent)
    square = resize_linear(square.astype(jnp.float32), (n, h * w)).reshape(n, h, w, 1)
    x = mix_style(self, x, square, keep_mask)
    y = x
    for i in range(int(math.log2(token_grid(self.resolution) // 4))):
      y = Conv2d(features, 3, down=2, implementation=self.implementation, name=f'down_conv_{i}')(y)
    style = FullyConnected(2 * features, 'lrelu', implementation=self.implementation,
                           name='to_style')(jnp.mean(y, axis=(1, 2)))
    return x, jnp.concatenate([style, latent], axis=-1)
