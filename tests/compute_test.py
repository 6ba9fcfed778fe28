import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.compute import PORTABLE


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
  compute = dataclasses.replace(PORTABLE, remat=True)
  plain, again = PORTABLE.block(Block)(), compute.block(Block, static_argnums=(1,))()
  x = jax.random.normal(jax.random.key(0), (3, 4))
  variables = plain.init(jax.random.key(1), x, mode)
  assert jax.tree.structure(again.init(jax.random.key(1), x, mode)) == jax.tree.structure(variables)

  def gradient(block):
    return jax.grad(lambda v: jnp.sum(block.apply(v, x, mode)))(variables)

  np.testing.assert_allclose(gradient(again)['params']['kernel'],
                             gradient(plain)['params']['kernel'], rtol=1e-6)
  program = str(jax.make_jaxpr(lambda v: jnp.sum(again.apply(v, x, mode)))(variables))
  assert 'remat' in program or 'checkpoint' in program
