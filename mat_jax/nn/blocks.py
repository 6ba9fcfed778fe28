"""Convolutional blocks of both stages, and parts of the style manipulation module (SMM)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.nn.layers import Conv2d, FullyConnected
from mat_jax.nn.modulation import StyleConv, ToRGB
from mat_jax.nn.sizes import LATENT_SIDE
from mat_jax.ops.implementation import PORTABLE, Implementation


def resize_linear(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Linear resize with half-pixel centres and no antialiasing."""
  return jax.image.resize(x, shape, 'linear', antialias=False)


def mix_style(module: nn.Module, x: jax.Array, style: jax.Array,
              keep_mask: jax.Array | None) -> jax.Array:
  """First step of the style manipulation module (SMM; MAT, section 3.4).

  Args:
    module: the Flax module whose RNG stream 'keep' is used.
    x: feature map [N, H, W, C].
    style: noise-unconditional style, resized to a shape that broadcasts to that of `x`.
    keep_mask: 0/1, as many entries as `x`; None samples it with probability 1/2.

  Returns:
    [N, H, W, C]: `x` where the keep mask is 1, the style elsewhere. The image-conditional style
    is computed from it.
  """
  if keep_mask is None:
    keep_mask = jax.random.bernoulli(module.make_rng('keep'), 0.5, x.shape)
  keep_mask = keep_mask.reshape(x.shape).astype(x.dtype)
  return x * keep_mask + style.astype(x.dtype) * (1.0 - keep_mask)


class EncoderBlock(nn.Module):
  """Two convolutions, the first of which downsamples.

  Attributes:
    features: output channels.
    first: whether the first is a 1x1 convolution at the same size instead.
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
  """Upsampling modulated convolution, skip connection, modulated convolution, toRGB.

  Attributes:
    features: output channels.
    resolution: side of the output at the native resolution.
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
      return StyleConv(self.features, self.resolution, up, self.use_noise, self.implementation,
                       name=name)

    x = conv('conv0', 2)(x, styles[0], noise_mode) + skip
    x = conv('conv1', 1)(x, styles[1], noise_mode)
    return x, ToRGB(implementation=self.implementation, name='toRGB')(x, styles[2], rgb)


class LowestBlock(nn.Module):
  """The first block of the decoder, at 16x16.

  Attributes:
    features: channels.
    implementation: dtype, and the implementation of the heavy operations.
  """

  features: int
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array, styles: tuple[jax.Array, jax.Array],
               noise_mode: str) -> tuple[jax.Array, jax.Array]:
    """[N, H, W, C] and two styles -> feature map and RGB image of the same size."""
    y = Conv2d(self.features, 3, implementation=self.implementation, name='conv0')(x) + x
    y = StyleConv(self.features, LATENT_SIDE, implementation=self.implementation, name='conv1')(
        y, styles[0], noise_mode)
    return y, ToRGB(implementation=self.implementation, name='toRGB')(y, styles[1])


class ToStyle(nn.Module):
  """Image-conditional style of the 16x16 map (SMM; MAT, section 3.4).

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
