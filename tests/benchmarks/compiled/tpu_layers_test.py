import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled import tpu_layers
from mat_jax.errors import UserError
from mat_jax.ops.implementation import for_platform

_TPU = for_platform(jnp.bfloat16, 'tpu')


@pytest.mark.parametrize('name', ['conv_first', 'to_rgb_256', 'dis_stage1_256'])
def test_gradients_of_a_layer_are_those_of_its_inputs_and_parameters(name):
  implementation = dataclasses.replace(_TPU, attention='matmuls')
  function, (params, *rest, inputs, _) = tpu_layers.program(
      tpu_layers.layers()[name], implementation, images=2, forward=False)
  _, (by_params, by_inputs) = jax.eval_shape(
      function, params, *rest, inputs, _)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (params, inputs))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), (by_params, by_inputs)) == shapes


def test_forward_pass_of_a_layer_at_full_size():
  function, arguments = tpu_layers.program(
      tpu_layers.layers()['from_rgb'], _TPU, images=8, forward=True)
  result = jax.eval_shape(function, *arguments)
  assert result.shape == (8, 256, 256, 128) and result.dtype == jnp.bfloat16


def test_an_unknown_layer_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='dec_conv_9'):
    tpu_layers.check(['dec_conv_1', 'dec_conv_9'])
