"""Convolutional blocks that the two stages of the generator are made of."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.nn.layers import Conv2d, FullyConnected, StyleConv, ToRGB
from mat_jax.nn.sizes import LATENT_SIDE
from mat_jax.ops.implementation import PORTABLE, Implementation


def resize_linear(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Linear resize with half-pixel centres and no antialiasing."""
  return jax.image.resize(x, shape, 'linear', antialias=False)


def mix_style(module: nn.Module, x: jax.Array, style: jax.Array,
               keep_mask: jax.Array | None) -> jax.Array:
  """Replaces half of the entries, drawn at random, by the style (MAT, section 3.4)."""
  if keep_mask is None:
    keep_mask = jax.random.bernoulli(module.make_rng('keep'), 0.5, x.shape)
  keep_mask = keep_mask.reshape(x.shape).astype(x.dtype)
  return x * keep_mask + style.astype(x.dtype) * (1.0 - keep_mask)


class EncoderBlock(nn.Module):
  """Two convolutions, the first of which enters or halves the map.

  Attributes:
    features: output channels.
    first: a 1x1 convolution at the same size instead of the halving one.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  first: bool = False
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, in] -> [N, H, W, features], or at half the size."""
    size, down = (1, 1) if self.first else (3, 2)
    x = Conv2d(self.features, size, down=down, implementation=self.implementation, name='conv0')(x)
    return Conv2d(self.features, 3, implementation=self.implementation, name='conv1')(x)


class SynthesisBlock(nn.Module):
  """Upsampling style convolution, skip, style convolution, image.

  Attributes:
    features: output channels.
    resolution: side of the built output.
    use_noise: whether the convolutions add noise.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  resolution: int
  use_noise: bool = True
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array, rgb: jax.Array | None, skip: jax.Array,
               styles: tuple[jax.Array, jax.Array, jax.Array],
               noise_mode: str) -> tuple[jax.Array, jax.Array]:
    """[N, H, W, in], image or None, encoder map, three styles -> 2x map and image."""
    def conv(name: str, up: int) -> StyleConv:
      return StyleConv(self.features, self.resolution, up, self.use_noise, self.implementation, name=name)

    x = conv('conv0', 2)(x, styles[0], noise_mode) + skip
    x = conv('conv1', 1)(x, styles[1], noise_mode)
    return x, ToRGB(implementation=self.implementation, name='toRGB')(x, styles[2], rgb)


class LowestBlock(nn.Module):
  """The decoder's entry at 16x16.

  Attributes:
    features: channels.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array, styles: tuple[jax.Array, jax.Array],
               noise_mode: str) -> tuple[jax.Array, jax.Array]:
    """[N, H, W, C] and two styles -> a map of the same size and its image."""
    y = Conv2d(self.features, 3, implementation=self.implementation, name='conv0')(x) + x
    y = StyleConv(self.features, LATENT_SIDE, implementation=self.implementation, name='conv1')(
        y, styles[0], noise_mode)
    return y, ToRGB(implementation=self.implementation, name='toRGB')(y, styles[1])


class ToStyle(nn.Module):
  """Global style of the 16x16 map.

  Attributes:
    features: width of the style.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, features]."""
    for i in range(3):
      x = Conv2d(x.shape[-1], 3, down=2, implementation=self.implementation, name=f'conv_{i}')(x)
    return FullyConnected(self.features, 'lrelu', implementation=self.implementation, name='fc')(
        jnp.mean(x, axis=(1, 2)))
