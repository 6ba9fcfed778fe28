import gc

import jax
import jax.numpy as jnp
import numpy as np

from mat_jax.training.step import aot


def test_a_program_is_compiled_once_and_donates():
  traces = []

  def double(x):
    traces.append(x.shape)
    return 2 * x

  program = aot.AotFunction(jax.jit(double, donate_argnums=0), 'doubling')
  first = jnp.arange(3.0)
  second = program(first)
  assert first.is_deleted()
  np.testing.assert_array_equal(program(second), [0.0, 4.0, 8.0])
  assert traces == [(3,)]


def test_a_program_can_be_lowered_for_shapes_alone():
  program = aot.AotFunction(jax.jit(lambda x: x + 1), 'adding')
  text = program.lower(jax.ShapeDtypeStruct((5,), jnp.float32)).as_text()
  assert '5xf32' in text


def test_garbage_is_not_collected_while_a_program_is_traced():
  seen = []
  aot.AotFunction(jax.jit(lambda x: seen.append(gc.isenabled()) or x), 'nothing').lower(jnp.zeros(3))
  assert seen == [False] and gc.isenabled()


def test_only_chips_whose_fast_memory_is_known_have_a_limit_for_it():
  limit = 'xla_tpu_scoped_vmem_limit_kib'
  assert aot.tpu_options('TPU v5 lite')[limit] == 64 * 1024
  assert limit not in aot.tpu_options('TPU v4')
