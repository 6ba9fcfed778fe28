import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import abstract_step
from convert import feature_nets
from mat_jax.errors import UserError
from mat_jax.runtime import sharding

_SMALL = abstract_step.Case(32, 4, 'float32', 'cpu', width=1 / 16)


def test_programs_give_what_training_gives():
  made = abstract_step.make(_SMALL)
  function, arguments = made.generator()
  result, stage1 = jax.eval_shape(function, *arguments)
  assert result.shape == stage1.shape == (4, 32, 32, 3)
  function, arguments = made.discriminator()
  assert [x.shape for x in jax.eval_shape(function, *arguments)] == [(4, 1), (4, 1)]
  function, arguments = made.generator_gradient()
  (result, stage1), gradient = jax.eval_shape(function, *arguments)
  assert result.shape == stage1.shape == (4, 32, 32, 3)
  assert jax.tree.map(lambda x: x.shape, gradient) == (
      jax.tree.map(lambda x: x.shape, made.state.g_params),)
  function, arguments = made.discriminator_gradient()
  _, (gradient, image, stage1) = jax.eval_shape(function, *arguments)
  assert image.shape == stage1.shape == (4, 32, 32, 3)
  assert jax.tree.map(lambda x: x.shape, gradient) == jax.tree.map(
      lambda x: x.shape, made.state.d_params)
  step, arguments = made.step()
  state, _ = jax.eval_shape(step, *arguments)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), made.state)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
  function, arguments = made.main_step()
  after = jax.eval_shape(function, *arguments)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == shapes


def test_shapes_carry_the_shardings_of_training():
  mesh = sharding.make_mesh(jax.devices()[:1])
  made = abstract_step.make(_SMALL, mesh)
  assert made.batch['image'].sharding == sharding.by_batch(mesh)
  for leaf in jax.tree.leaves((made.state, made.features)):
    assert leaf.sharding == sharding.replicated(mesh)


def test_vgg_has_the_shapes_of_its_published_weights():
  name, weights = feature_nets.load_vgg()
  assert jax.tree.map(lambda x: x.shape, abstract_step.vgg_shapes(name)) == jax.tree.map(
      np.shape, weights)


def test_gradients_are_counted_for_each_phase():
  made = abstract_step.make(_SMALL)
  sizes = {name: sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
           for name, tree in (('g', made.state.g_params), ('d', made.state.d_params))}
  assert made.gradient_bytes() == sizes['g'] + 2 * sizes['d']


def test_a_case_that_cannot_be_trained_is_refused():
  with pytest.raises(UserError, match='batch_size'):
    abstract_step.make(abstract_step.Case(64, 6, 'float32', 'cpu', width=1 / 16))
