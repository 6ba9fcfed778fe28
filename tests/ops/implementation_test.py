import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.nn.layers import Conv2d
from mat_jax.ops.implementation import PORTABLE, Implementation


class Block(nn.Module):
  """A block with an argument that is no array."""

  @nn.compact
  def __call__(self, x, mode):
    kernel = self.param('kernel', nn.initializers.normal(), (4, 4))
    if mode == 'twice':
      x = 2 * x
    return jnp.sin(x @ kernel)


@pytest.mark.parametrize('mode', ['once', 'twice'])
def test_remat_changes_what_is_kept_and_nothing_else(mode):
  implementation = dataclasses.replace(PORTABLE, remat=True)
  plain, again = PORTABLE.block(Block)(), implementation.block(Block, static_argnums=(1,))()
  x = jax.random.normal(jax.random.key(0), (3, 4))
  variables = plain.init(jax.random.key(1), x, mode)
  assert jax.tree.structure(again.init(jax.random.key(1), x, mode)) == jax.tree.structure(variables)

  def gradient(block):
    return jax.grad(lambda v: jnp.sum(block.apply(v, x, mode)))(variables)

  np.testing.assert_allclose(gradient(again)['params']['kernel'],
                             gradient(plain)['params']['kernel'], rtol=1e-6)
  program = str(jax.make_jaxpr(lambda v: jnp.sum(again.apply(v, x, mode)))(variables))
  assert 'remat' in program or 'checkpoint' in program


class Convolutions(nn.Module):
  """Two convolutions with filters, whose results may be kept."""

  implementation: Implementation

  @nn.compact
  def __call__(self, x):
    for i, down in enumerate((1, 2)):
      x = Conv2d(4, 3, down=down, implementation=self.implementation, name=f'conv_{i}')(x)
    return x


def test_a_remat_policy_changes_what_is_kept_and_nothing_else():
  def gradient(keep):
    implementation = dataclasses.replace(PORTABLE, remat_policy=keep)
    network = implementation.network(Convolutions)(implementation)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    variables = network.init(jax.random.key(1), x)
    _, pullback = jax.vjp(lambda v: jnp.sum(network.apply(v, x)), variables)
    kept = sorted(leaf.shape for leaf in jax.tree.leaves(pullback) if leaf.ndim == 4)
    return pullback(1.0)[0], kept

  (expected, everything), (found, residuals) = gradient('all'), gradient('convolutions')
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
  # Not the filtered map of 9 x 9, which the second convolution reads.
  assert (1, 9, 9, 4) in everything and (1, 9, 9, 4) not in residuals
  assert (1, 8, 8, 4) in residuals
