import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.nn import projected
from mat_jax.nn.projected import ProjectedDiscriminator, SpectralConv, largest_singular_value

_CHANNELS = dict(zip(projected.LAYERS, (128, 256, 512, 512), strict=True))


def _features(rng, count=2, side=64):
  found = {layer: rng.gamma(1.0, size=(count, side >> i, side >> i, channels))
           for i, (layer, channels) in enumerate(_CHANNELS.items(), 1)}
  return {layer: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
          for layer, x in found.items()}


@pytest.fixture(scope='module')
def scored():
  """Compiled network, parameters, features and mask."""
  rng = np.random.default_rng(0)
  features = _features(rng)
  mask = (rng.uniform(size=(2, 64, 64, 1)) > 0.5).astype(np.float32)
  network = ProjectedDiscriminator()
  params = jax.jit(network.init)(jax.random.key(0), features, mask)['params']
  apply = jax.jit(lambda params, *inputs: network.apply({'params': params}, *inputs))
  return apply, params, features, mask


def test_every_depth_scores_sixteen_positions(scored):
  apply, params, features, mask = scored
  logits = apply(params, features, mask)
  assert logits.shape == (2, 4, 16) and logits.dtype == jnp.float32
  assert np.std(logits) > 0


def test_no_image_influences_another(scored):
  apply, params, features, mask = scored
  both = apply(params, features, mask)
  alone = apply(params, {k: v[1:] for k, v in features.items()}, mask[1:])
  np.testing.assert_allclose(both[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_mask_matters(scored):
  apply, params, features, mask = scored
  logits = apply(params, features, mask)
  assert np.abs(apply(params, features, 1 - mask) - logits).max() > 1e-3


def test_heads_learn_and_projections_stay(scored):
  apply, params, features, mask = scored
  gradients = jax.jit(jax.grad(
      lambda params: jnp.sum(jnp.square(apply(params, features, mask)))))(params)
  for name, tree in gradients.items():
    moves = any(np.any(leaf) for leaf in jax.tree.leaves(tree))
    assert moves == name.startswith('head'), name


@pytest.mark.parametrize('shape', [(48, 16), (9, 32), (27, 1)])
def test_largest_singular_value(shape):
  matrix = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  found = largest_singular_value(jnp.asarray(matrix))
  np.testing.assert_allclose(found, np.linalg.norm(matrix, 2), rtol=0.02)


def test_the_scale_of_a_spectrally_normalised_kernel_does_not_matter():
  x = np.random.default_rng(2).normal(size=(1, 8, 8, 3)).astype(np.float32)
  conv = SpectralConv(5, 2)
  params = conv.init(jax.random.key(0), x)['params']
  y = conv.apply({'params': params}, x)
  assert y.shape == (1, 4, 4, 5)
  params['kernel'] *= 7.0
  np.testing.assert_allclose(conv.apply({'params': params}, x), y, rtol=1e-5, atol=1e-6)
