"""The losses of MAT's training as pure functions (MAT, section 3.6).

Everything is computed in float32 whatever the dtype of the networks.
"""

from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp


def _softplus(x: jax.Array) -> jax.Array:
  return jax.nn.softplus(x.astype(jnp.float32))


def generator_adversarial(logits: jax.Array) -> jax.Array:
  """Non-saturating loss of generated images, softplus(-D), mean over [N, 1]."""
  return jnp.mean(_softplus(-logits))


def discriminator_adversarial(fake: jax.Array, real: jax.Array) -> jax.Array:
  """softplus(D(fake)) + softplus(-D(real)), each a mean over [N, 1]."""
  return jnp.mean(_softplus(fake)) + jnp.mean(_softplus(-real))


def generator_hinge(logits: jax.Array) -> jax.Array:
  """Hinge loss of generated images, -D (arXiv 1705.02894), mean over everything."""
  return -jnp.mean(logits.astype(jnp.float32))


def discriminator_hinge(fake: jax.Array, real: jax.Array) -> jax.Array:
  """max(0, 1 + D(fake)) + max(0, 1 - D(real)), each a mean over everything."""
  fake, real = fake.astype(jnp.float32), real.astype(jnp.float32)
  return jnp.mean(jax.nn.relu(1 + fake)) + jnp.mean(jax.nn.relu(1 - real))


def gradient_penalty(gradient: jax.Array) -> jax.Array:
  """Squared norm of an image gradient, mean over images (R1, arXiv 1801.04406).

  Args:
    gradient: d logit / d image, [N, H, W, C]; every logit depends on its image.

  Returns:
    Scalar: mean over N of the sum over pixels and channels.
  """
  return jnp.mean(jnp.sum(jnp.square(gradient.astype(jnp.float32)), axis=(1, 2, 3)))


def lecam(logits: Mapping[str, jax.Array], averages: Mapping[str, jax.Array]) -> jax.Array:
  """LeCam regulariser: pulls real logits to the average fake ones, and vice versa.

  Tseng et al., CVPR 2021 (arXiv 2104.03310):
  E[(D(real) - average of D(fake))^2] + E[(D(fake) - average of D(real))^2].

  Args:
    logits: 'real', 'fake', 'real_stage1' and 'fake_stage1' -> [N, 1].
    averages: moving averages of the same logits, scalars.

  Returns:
    Scalar, the sum over both branches.
  """
  def distance(name: str, other: str) -> jax.Array:
    return jnp.mean(jnp.square(logits[name].astype(jnp.float32) - averages[other]))

  return cast(jax.Array, sum(
      distance(f'real{branch}', f'fake{branch}') + distance(f'fake{branch}', f'real{branch}')
      for branch in ('', '_stage1')))


def mean_absolute(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean |a - b| over everything."""
  return jnp.mean(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)))


def perceptual(features: Mapping[str, jax.Array], target: Mapping[str, jax.Array],
               weights: Mapping[str, float]) -> jax.Array | int:
  """Weighted mean absolute difference of features (arXiv 1603.08155).

  Args:
    features: layer -> activations of the results.
    target: layer -> activations of the images; no gradient flows into them.
    weights: layer -> weight.

  Returns:
    Scalar.
  """
  return sum(weight * mean_absolute(features[layer], jax.lax.stop_gradient(target[layer]))
             for layer, weight in weights.items())
