import dataclasses

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.reference import fill, published
from convert import names
from mat_jax import Discriminator
from mat_jax.ops.implementation import for_platform
from tests.support import reference


@pytest.mark.parametrize('resolution,count', [(256, 36_083_330), (512, 36_231_618)])
def test_parameters_are_those_of_the_manifest(resolution, count):
  side = jnp.zeros((1, resolution, resolution, 3))
  shapes = jax.eval_shape(
      Discriminator(resolution=resolution).init, jax.random.key(0), side, side[..., :1], side)
  found = {}
  for path, leaf in traverse_util.flatten_dict(shapes['params']).items():
    layout = names.to_published_layout(np.broadcast_to(np.float32(0), leaf.shape), path[-1], False)
    found[names.discriminator_name('/'.join(path), resolution)] = list(layout.shape)
  assert found == reference.load(f'manifest_{resolution}.json')['discriminator']['parameters']
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_full_size_matches_the_reference():
  case = published.CASES['discriminator']
  results = jax.jit(case.function(None, Discriminator(resolution=256)))(*case.arguments())
  assert max(case.errors(results).values()) <= case.tolerance


def test_labels_choose_the_logit():
  module = Discriminator(resolution=64, label_dim=3, width=0.0625)
  image, mask, _ = fill.inputs('small', 2, 64)
  image, mask = reference.nhwc(image), reference.nhwc(mask)
  first, second = np.eye(3, dtype=np.float32)[[0, 0]], np.eye(3, dtype=np.float32)[[1, 1]]
  variables = reference.random_variables(module, image, mask, image, first)
  apply = jax.jit(module.apply)
  logits = [apply(variables, image, mask, image, labels)[0] for labels in (first, second)]
  assert logits[0].shape == (2, 1) and not np.allclose(*logits)


def test_branches_are_independent():
  module = Discriminator(resolution=64, width=0.0625)
  image, mask, _ = fill.inputs('small', 2, 64)
  image, mask = reference.nhwc(image), reference.nhwc(mask)
  variables = reference.random_variables(module, image, mask, image)
  apply = jax.jit(module.apply)
  a, b = apply(variables, image, mask, image), apply(variables, image, mask, -image)
  np.testing.assert_array_equal(a[0], b[0])
  assert not np.allclose(a[1], b[1])


def test_folded_maps_give_the_same_logits_and_gradients():
  image, mask, _ = fill.inputs('small', 2, 64)
  image, mask = reference.nhwc(image), reference.nhwc(mask)
  module = Discriminator(resolution=64, width=0.0625, implementation=for_platform(platform='gpu'))
  variables = reference.random_variables(module, image, mask, image)

  def gradients(folded_channels):
    folded = module.clone(implementation=dataclasses.replace(
        module.implementation, folded_channels=folded_channels))

    def loss(variables, image):
      return sum(map(jnp.sum, folded.apply(variables, image, mask, image)))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, image)

  for found, expected in zip(*map(jax.tree.leaves, (gradients(64), gradients(0))), strict=True):
    assert found.shape == expected.shape
    assert reference.relative_error(found, expected) <= 1e-4
