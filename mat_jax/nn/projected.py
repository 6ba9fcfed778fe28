"""A second discriminator on the frozen features of VGG16.

Projected GANs (Sauer et al., NeurIPS 2021, arXiv 2111.01007): the features of a classifier at
four depths are mixed by random projections that are never trained, across channels and across
depths, and a small discriminator looks at each mixture. It needs far fewer images than one that
has to learn its features. Heads are spectrally normalised (arXiv 1802.05957) instead of batch
normalised, so that no image influences another one.
"""

from collections.abc import Mapping
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.nn.layers import activate
from mat_jax.ops.implementation import PORTABLE, Implementation
from mat_jax.ops.resample import resample_conv

# Where `TrainState.d_params` has this network's parameters.
PARAMS = 'projected'
# Of VGG16, from fine to coarse: 1/2 to 1/16 of the image's side.
LAYERS = ('relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')
MIN_RESOLUTION = 64  # the coarsest map then has the side of the logits
_MIXED = 64  # channels of each mixture
_CHANNELS = 128  # of the heads
_SIDE = 4  # of the map of logits
_SQUARINGS = 4  # for 16 steps of the power iteration


class ProjectedDiscriminator(nn.Module):
  """Random projections and a head for each depth.

  Attributes:
    implementation: dtype.
  """

  implementation: Implementation | None = None

  @nn.compact
  def __call__(self, features: Mapping[str, jax.Array], mask: jax.Array) -> jax.Array:
    """Scores images.

    Args:
      features: those of `LAYERS`, [N, h, w, C], each position of length 1; sides a power of
        two from 4.
      mask: [N, R, R, 1], 1 where a pixel is kept.

    Returns:
      Logits, float32 [N, depths, positions]; high means real.
    """
    implementation = self.implementation or PORTABLE
    coarser, logits = None, []
    for layer in reversed(LAYERS):
      x = features[layer]
      x = (x * math.sqrt(x.shape[-1])).astype(implementation.dtype)
      x = RandomConv(_MIXED, 1, implementation, name=f'channels_{layer}')(x)
      if coarser is not None:
        x = (x + jax.image.resize(coarser, x.shape, 'linear')) * math.sqrt(0.5)
      coarser = RandomConv(_MIXED, 3, implementation, name=f'depths_{layer}')(x)
      kept = jax.image.resize(mask, (*x.shape[:3], 1), 'linear').astype(x.dtype)
      head = Head(implementation, name=f'head_{layer}')
      logits.append(head(jnp.concatenate([coarser, kept - 0.5], axis=-1)))
    return jnp.stack(logits, axis=1)


class RandomConv(nn.Module):
  """A convolution with a random kernel that is not trained.

  Attributes:
    features: output channels.
    kernel_size: odd.
    implementation: dtype.
  """

  features: int
  kernel_size: int
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, in] -> [N, H, W, features]."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = jax.lax.stop_gradient(self.param('kernel', self.implementation.normal(1.0), shape))
    kernel = (kernel / math.sqrt(math.prod(shape[:3]))).astype(x.dtype)
    return resample_conv(x, kernel, implementation=self.implementation)


class Head(nn.Module):
  """Downsamples a map until its side is 4, and scores every position.

  Attributes:
    implementation: dtype.
  """

  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> float32 [N, 16]."""
    count = max(0, int(math.log2(x.shape[1] / _SIDE)))
    for i in range(count):
      x = activate(SpectralConv(_CHANNELS, 2, self.implementation, name=f'conv_{i}')(x), 'lrelu')
    x = SpectralConv(_CHANNELS, implementation=self.implementation, name='conv')(x)
    x = SpectralConv(1, implementation=self.implementation, name='logits')(activate(x, 'lrelu'))
    return x.astype(jnp.float32).reshape(x.shape[0], -1)


class SpectralConv(nn.Module):
  """A 3x3 convolution whose kernel is divided by its largest singular value.

  Attributes:
    features: output channels.
    down: 1 or 2.
    implementation: dtype.
  """

  features: int
  down: int = 1
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, in] -> [N, H / down, W / down, features]."""
    shape = (3, 3, x.shape[-1], self.features)
    kernel = self.param('kernel', self.implementation.normal(1.0), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    kernel = kernel / largest_singular_value(kernel.reshape(-1, self.features))
    y = resample_conv(x, kernel.astype(x.dtype), down=self.down, implementation=self.implementation)
    return y + bias.astype(y.dtype)


def largest_singular_value(matrix: jax.Array) -> jax.Array:
  """Largest singular value of a float32 [I, O], by 16 power iterations on its Gram matrix.

  The singular vector is taken as a constant, as in arXiv 1802.05957, equation 7.
  """
  power = jax.lax.stop_gradient(matrix.T @ matrix)
  for _ in range(_SQUARINGS):
    power = power / jnp.trace(power)
    power = power @ power
  vector = jnp.sum(power, axis=1)
  vector = vector / jnp.linalg.norm(vector)
  return jnp.linalg.norm(matrix @ vector)

