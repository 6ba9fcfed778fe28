"""The MAT discriminator: one branch for the result, one for the stage-one image.

StyleGAN2's residual discriminator (arXiv 1912.04958) on image and mask.
"""

import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.nn.layers import Conv2d, FullyConnected, minibatch_std
from mat_jax.nn.mapping import Mapping
from mat_jax.nn.sizes import channels, check_resolution
from mat_jax.ops.implementation import PORTABLE, Implementation, for_platform


def first_blocks(resolution: int, count: int) -> tuple[str, ...]:
  """Names of the modules of the first `count` blocks of a branch, from the image on.

  The entry from the image belongs to the first block.

  Raises:
    ValueError: the branch has fewer blocks.
  """
  blocks = [f'block_{side}' for side in (resolution >> i for i in range(count)) if side > 4]
  if len(blocks) < count:
    raise ValueError(f'a discriminator of {resolution} px has {len(blocks)} blocks')
  return ('from_rgb', *blocks) if blocks else ()


class DiscriminatorBlock(nn.Module):
  """Residual block that downsamples by 2.

  Attributes:
    features: output channels.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, in] -> [N, H / 2, W / 2, features]."""
    gain, folded = math.sqrt(0.5), x.shape[-1] <= self.implementation.folded_channels
    skip = Conv2d(self.features, 1, 'linear', down=2, use_bias=False, gain=gain, folded=folded,
                  implementation=self.implementation, name='skip')(x)
    y = Conv2d(x.shape[-1], 3, folded=folded, implementation=self.implementation, name='conv0')(x)
    y = Conv2d(self.features, 3, down=2, gain=gain, folded=folded,
               implementation=self.implementation, name='conv1')(y)
    return y + skip


class Branch(nn.Module):
  """One discriminator from image to logit (or to a vector, with labels).

  Attributes:
    resolution: image side.
    width: channel multiplier.
    divisor: divides all channels; 2 in the stage-one branch.
    outputs: width of the last layer.
    minibatch_std_shards: see `Discriminator`.
    implementation: dtype, and the implementation of the heavy operations.
  """

  resolution: int
  width: float = 1.0
  divisor: int = 1
  outputs: int = 1
  minibatch_std_shards: int | None = 1
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, image: jax.Array, mask: jax.Array) -> jax.Array:
    """[N, R, R, 3], [N, R, R, 1] -> float32 [N, outputs]."""
    def features(side: int) -> int:
      return channels(side, self.width) // self.divisor

    x = jnp.concatenate([mask - 0.5, image], axis=-1)
    wide = features(self.resolution)
    x = Conv2d(wide, 1, folded=wide <= self.implementation.folded_channels,
               implementation=self.implementation, name='from_rgb')(x)
    side = self.resolution
    while side > 4:
      block = self.implementation.block(DiscriminatorBlock)
      x = block(features(side // 2), self.implementation, name=f'block_{side}')(x)
      side //= 2
    x = minibatch_std(x, shards=self.minibatch_std_shards)
    x = Conv2d(features(4), 3, implementation=self.implementation, name='conv')(x)
    # The published fc0 reads its input in C, H, W order.
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    x = FullyConnected(features(4), 'lrelu', implementation=self.implementation, name='fc0')(x)
    last = dataclasses.replace(self.implementation, dtype=jnp.float32)
    return FullyConnected(self.outputs, implementation=last, name='fc1')(x)


class Discriminator(nn.Module):
  """MAT's discriminator.

  Attributes:
    resolution: image side, a power of two from 32.
    label_dim: width of the labels; 0 for none.
    width: channel multiplier; 1.0 is the published network.
    dtype: compute dtype; parameters are float32.
    minibatch_std_shards: number of contiguous parts of the batch within which groups of the
      minibatch standard deviation are formed (see `layers.minibatch_std`).
    implementation: of the heavy operations; None takes the platform's.
  """

  resolution: int = 256
  label_dim: int = 0
  width: float = 1.0
  dtype: jnp.dtype = jnp.float32
  minibatch_std_shards: int | None = 1
  implementation: Implementation | None = None

  def setup(self):
    check_resolution(self.resolution)
    implementation = dataclasses.replace(self.implementation or for_platform(), dtype=self.dtype)
    label_width = channels(4, self.width)
    outputs = label_width if self.label_dim else 1
    shared = (self.minibatch_std_shards, implementation)
    branch = implementation.network(Branch)
    self.dis = branch(self.resolution, self.width, 1, outputs, *shared)
    self.dis_stage1 = branch(self.resolution, self.width, 2, outputs, *shared)
    if self.label_dim:
      self.mapping = Mapping(label_width, label_dim=self.label_dim, implementation=implementation)

  def __call__(self, image: jax.Array, mask: jax.Array, stage1: jax.Array,
               labels: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Scores images.

    Args:
      image: [N, R, R, 3], results or real images.
      mask: [N, R, R, 1].
      stage1: [N, R, R, 3], stage-one or real images.
      labels: [N, label_dim] or None.

    Returns:
      Logits of both branches, float32 [N, 1]; high means real.
    """
    logits, logits_stage1 = self.dis(image, mask), self.dis_stage1(stage1, mask)
    if not self.label_dim:
      return logits, logits_stage1
    embedded = self.mapping(None, labels)
    scale = 1.0 / math.sqrt(embedded.shape[-1])
    return (jnp.sum(logits * embedded, axis=-1, keepdims=True) * scale,
            jnp.sum(logits_stage1 * embedded, axis=-1, keepdims=True) * scale)
