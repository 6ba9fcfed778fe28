"""The mapping network (StyleGAN, arXiv 1812.04948), of latents and of labels."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from mat_jax.nn.layers import FullyConnected, normalize_second_moment
from mat_jax.ops.implementation import PORTABLE, Implementation

W_AVG_BETA = 0.995


class Mapping(nn.Module):
  """Maps latents (and labels) to style vectors, as in StyleGAN2.

  Attributes:
    w_dim: width of a style vector.
    num_ws: number of style vectors; None returns a single one, without w_avg.
    num_layers: depth; 8 in the released checkpoints.
    label_dim: width of the label; 0 for none.
    implementation: of the heavy operations; the mapping always computes in float32.
  """

  w_dim: int = 512
  num_ws: int | None = None
  num_layers: int = 8
  label_dim: int = 0
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, z: jax.Array | None, labels: jax.Array | None = None,
               truncation_psi: float | jax.Array = 1.0, truncation_cutoff: int | None = None,
               train: bool = False) -> jax.Array:
    """Maps latents to styles.

    Args:
      z: [N, z_dim], or None where only labels count.
      labels: [N, label_dim] or None.
      truncation_psi: 1 keeps w, 0 gives the average.
      truncation_cutoff: number of style vectors to truncate, from the first; None for all.
      train: EMA update of `w_avg` with the batch's mean, before the truncation, if
        the collection 'buffers' is mutable.

    Returns:
      float32 [N, num_ws, w_dim], or [N, w_dim] when `num_ws` is None.
    """
    implementation = dataclasses.replace(self.implementation, dtype=jnp.float32)
    inputs = [] if z is None else [normalize_second_moment(z.astype(jnp.float32))]
    if self.label_dim:
      if labels is None or labels.shape[-1] != self.label_dim:
        raise ValueError(f'labels must be [N, {self.label_dim}]')
      embedded = FullyConnected(self.w_dim, implementation=implementation, name='embed')(labels)
      inputs.append(normalize_second_moment(embedded))
    x = jnp.concatenate(inputs, axis=-1)
    for i in range(self.num_layers):
      x = FullyConnected(self.w_dim, 'lrelu', 0.01, implementation=implementation, name=f'fc{i}')(x)
    if self.num_ws is None:
      return x
    w_avg = self.variable('buffers', 'w_avg', jnp.zeros, (self.w_dim,))
    if train and not self.is_initializing() and self.is_mutable_collection('buffers'):
      mean = jax.lax.stop_gradient(jnp.mean(x, axis=0))
      w_avg.value = mean + W_AVG_BETA * (w_avg.value - mean)
    x = jnp.broadcast_to(x[:, None], (x.shape[0], self.num_ws, self.w_dim))
    # Written so that psi = 1 is exactly the identity.
    truncated = truncation_psi * x + (1.0 - truncation_psi) * w_avg.value
    if truncation_cutoff is None:
      return truncated
    first = jnp.arange(self.num_ws)[None, :, None] < truncation_cutoff
    return jnp.where(first, truncated, x)
