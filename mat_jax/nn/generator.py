"""The MAT generator: mapping network, transformer stage, convolutional stage.

MAT (Li et al., CVPR 2022, arXiv 2203.15270). Images are NHWC in [-1, 1]; a mask
is 1 where a pixel is kept and 0 in the hole. Adjusted transformer blocks, multi-head contextual
attention (MCA) and mask updating are in `mat_jax.nn.transformer`; the style manipulation module
(SMM) is in `Synthesis`, `Decoder` and `mat_jax.nn.blocks`, and in stage one
(`mat_jax.nn.first_stage`).
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.nn.blocks import (
  EncoderBlock,
  LowestBlock,
  SynthesisBlock,
  ToStyle,
  mix_style,
  resize_linear,
)
from mat_jax.nn.first_stage import FirstStage
from mat_jax.nn.layers import FullyConnected
from mat_jax.nn.mapping import Mapping
from mat_jax.nn.sizes import LATENT_SIDE, channels, check_resolution, num_ws
from mat_jax.ops.implementation import PORTABLE, Implementation, for_platform


class Encoder(nn.Module):
  """Convolutional encoder of stage two.

  Attributes:
    resolution: native resolution, the side of the image.
    width: channel multiplier.
    implementation: dtype, and the implementation of the heavy operations.
  """

  resolution: int
  width: float = 1.0
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> dict[int, jax.Array]:
    """[N, H, W, 7] -> feature maps by their native side, from `resolution` down to 16."""
    maps, side = {}, self.resolution
    while side >= LATENT_SIDE:
      block = self.implementation.block(EncoderBlock)
      x = block(channels(side, self.width), side == self.resolution, self.implementation,
                name=f'block_{side}')(x)
      maps[side] = x
      side //= 2
    return maps


class Decoder(nn.Module):
  """Style decoder of stage two.

  Its styles are those of the style manipulation module (SMM; MAT, section 3.4): the
  noise-unconditional style of the mapping network beside the image-conditional one.

  Attributes:
    resolution: native resolution, the side of the image.
    width: channel multiplier.
    implementation: dtype, and the implementation of the heavy operations.
  """

  resolution: int
  width: float = 1.0
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, maps: dict[int, jax.Array], ws: jax.Array, global_style: jax.Array,
               noise_mode: str) -> jax.Array:
    """Decodes to an image.

    Args:
      maps: feature maps of the encoder by their native side.
      ws: [N, num_ws, w_dim], noise-unconditional styles.
      global_style: [N, S], image-conditional style.
      noise_mode: 'random', 'const' or 'none'.

    Returns:
      float32 [N, H, W, 3].
    """
    global_style = global_style.astype(ws.dtype)
    styles = [jnp.concatenate([ws[:, i], global_style], axis=-1) for i in range(ws.shape[1])]
    lowest = self.implementation.block(LowestBlock, static_argnums=(2,))
    block = self.implementation.block(SynthesisBlock, static_argnums=(4,), modulated=True)
    x, rgb = lowest(channels(LATENT_SIDE, self.width), self.implementation,
                    name=f'block_{LATENT_SIDE}')(
                        maps[LATENT_SIDE], (styles[0], styles[1]), noise_mode)
    side, first = 2 * LATENT_SIDE, 1
    while side <= self.resolution:
      # The first convolution of a block has the style of the previous block's toRGB.
      x, rgb = block(channels(side, self.width), side, implementation=self.implementation,
                     name=f'block_{side}')(
                         x, rgb, maps[side], tuple(styles[first:first + 3]), noise_mode)
      side, first = 2 * side, first + 2
    return rgb


class Synthesis(nn.Module):
  """Both stages of MAT, with the style manipulation module (SMM) of stage two.

  Attributes:
    resolution: native resolution, the side of the image.
    width: channel multiplier of both stages.
    implementation: dtype, and the implementation of the heavy operations.
  """

  resolution: int
  width: float = 1.0
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, image: jax.Array, mask: jax.Array, ws: jax.Array, noise_mode: str = 'const',
               keep_masks: dict[str, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
    """Completes images.

    Args:
      image: [N, H, W, 3] in [-1, 1].
      mask: [N, H, W, 1].
      ws: [N, num_ws, w_dim].
      noise_mode: 'random', 'const' or 'none'.
      keep_masks: see `Generator`.

    Returns:
      Result and stage-one image, float32 [N, H, W, 3]; kept pixels equal the
      input's.
    """
    keep_masks = keep_masks or {}
    stage1 = FirstStage(self.resolution, self.width, self.implementation, name='first_stage')(
        image, mask, ws, keep_masks.get('first'))
    known = image * mask
    x = jnp.concatenate([mask - 0.5, known + stage1 * (1.0 - mask), known], axis=-1)
    maps = Encoder(self.resolution, self.width, self.implementation, name='enc')(x)
    # Style manipulation module (MAT, section 3.4): the noise-unconditional style replaces random
    # entries of the 16x16 map, of which the image-conditional style is then computed.
    lowest = maps[LATENT_SIDE]
    square = FullyConnected(LATENT_SIDE**2, 'lrelu', implementation=self.implementation,
                            name='to_square')(ws[:, 0])
    square = square.reshape(-1, LATENT_SIDE, LATENT_SIDE, 1).astype(jnp.float32)
    square = resize_linear(square, (*lowest.shape[:3], 1))
    maps[LATENT_SIDE] = mix_style(self, lowest, square, keep_masks.get('second'))
    global_style = ToStyle(2 * channels(4, self.width), self.implementation, name='to_style')(
        maps[LATENT_SIDE])
    rgb = Decoder(self.resolution, self.width, self.implementation, name='dec')(
        maps, ws, global_style, noise_mode)
    return rgb * (1.0 - mask) + known, stage1


class Generator(nn.Module):
  """MAT's generator.

  Collections: 'params', and 'buffers' with `w_avg` and the constant noise.
  RNG streams: 'keep' for the keep masks (sampled at inference too), 'noise' for
  `noise_mode='random'`.

  Attributes:
    resolution: native resolution, the side of the image; a power of two, at least 32.
    label_dim: width of the labels; 0 for none.
    mapping_layers: depth of the mapping network.
    width: channel multiplier; 1.0 is the published network.
    dtype: compute dtype of the synthesis; parameters are float32.
    implementation: of the heavy operations; None takes that of the platform.
  """

  resolution: int = 256
  label_dim: int = 0
  mapping_layers: int = 8
  width: float = 1.0
  dtype: jnp.dtype = jnp.float32
  implementation: Implementation | None = None

  def setup(self):
    check_resolution(self.resolution)
    implementation = dataclasses.replace(self.implementation or for_platform(), dtype=self.dtype)
    self.mapping = Mapping(num_ws=num_ws(self.resolution), num_layers=self.mapping_layers,
                           label_dim=self.label_dim, implementation=implementation)
    self.synthesis = implementation.network(Synthesis, static_argnums=(3,))(
        self.resolution, self.width, implementation)

  def __call__(self, image: jax.Array, mask: jax.Array, z: jax.Array,
               labels: jax.Array | None = None, truncation_psi: float | jax.Array = 1.0,
               noise_mode: str = 'const', keep_masks: dict[str, jax.Array] | None = None,
               train: bool = False,
               truncation_cutoff: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Completes images.

    Args:
      image: [N, H, W, 3] in [-1, 1]; H and W multiples of the resolution.
      mask: [N, H, W, 1], 1 = keep, 0 = hole.
      z: [N, 512] latents.
      labels: [N, label_dim] or None.
      truncation_psi: 1 for full variety, 0 for the average style.
      noise_mode: 'random', 'const' (native resolution only) or 'none'.
      keep_masks: {'first': [N, tokens, 180], 'second': [N, H/16, W/16, 512]}
        (sizes for 256 and width 1; see `sizes.keep_mask_shapes`) fixes the keep masks; a
        missing one is sampled from the RNG stream 'keep'.
      train: updates `w_avg` if 'buffers' is mutable.
      truncation_cutoff: number of style vectors to truncate, from the first; None for all.

    Returns:
      Result and stage-one image, float32 [N, H, W, 3], not clipped.
    """
    ws = self.mapping(z, labels, truncation_psi, truncation_cutoff, train)
    return self.synthesis(image, mask, ws, noise_mode, keep_masks)

  def map_latents(self, z: jax.Array, labels: jax.Array | None = None,
                  truncation_psi: float | jax.Array = 1.0, train: bool = False) -> jax.Array:
    """[N, 512] latents -> float32 styles [N, num_ws, 512]."""
    return self.mapping(z, labels, truncation_psi, None, train)

  def synthesize(self, image: jax.Array, mask: jax.Array, ws: jax.Array,
                 noise_mode: str = 'const',
                 keep_masks: dict[str, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
    """Completes images from styles; arguments and results as in `__call__`."""
    return self.synthesis(image, mask, ws, noise_mode, keep_masks)
