import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax import programs, sharding
from mat_jax.kept_programs import KeptProgram

_FACTOR = 3.0


@pytest.fixture
def folder(tmp_path):
  """An empty folder for compiled programs."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  yield tmp_path
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.fixture
def traces():
  return []


def _program(traces, description='a'):
  """Multiplies a state and tells its sum over a batch; counts how often it is traced."""
  def step(state, batch):
    traces.append(batch['x'].shape)
    state = {'value': state['value'] * _FACTOR}
    return state, jnp.sum(state['value'] * batch['x'])

  mesh = sharding.make_mesh(jax.devices()[:2])
  shardings = sharding.replicated(mesh), sharding.by_batch(mesh)
  jitted = jax.jit(step, in_shardings=shardings, out_shardings=shardings[0], donate_argnums=0)
  kept = KeptProgram(step, shardings, shardings[0], lambda state, batch: (state, 0), description)
  return programs.Program(jitted, kept)


def _run(program, count=4):
  mesh = sharding.make_mesh(jax.devices()[:2])
  state = jax.device_put({'value': jnp.full(count, 2.0)}, sharding.replicated(mesh))
  batch = jax.device_put({'x': jnp.arange(float(count))}, sharding.by_batch(mesh))
  after, total = program(state, batch)
  assert state['value'].is_deleted(), 'the first argument is donated'
  np.testing.assert_array_equal(after['value'], np.full(count, 6.0))
  assert total == 6.0 * sum(range(count))
  again, _ = program(after, batch)
  np.testing.assert_array_equal(again['value'], np.full(count, 18.0))


def _kept(folder):
  return sorted(name for name in os.listdir(folder) if name.startswith('traced-'))


def test_a_program_is_traced_once_for_all_processes(folder, traces):
  _run(_program(traces))
  assert len(traces) == 1 and len(_kept(folder)) == 1
  _run(_program(traces))
  assert len(traces) == 1


def test_what_differs_is_traced_apart(folder, traces):
  _run(_program(traces))
  _run(_program(traces, 'b'))
  _run(_program(traces), count=8)
  with jax.default_matmul_precision('bfloat16'):
    _run(_program(traces))
  assert len(traces) == 4 and len(_kept(folder)) == 4


def test_a_damaged_file_is_written_anew(folder, traces):
  _run(_program(traces))
  (name,) = _kept(folder)
  whole = (folder / name).read_bytes()
  (folder / name).write_bytes(whole[:-1])
  _run(_program(traces))
  assert len(traces) == 2
  _run(_program(traces))
  assert len(traces) == 2


def test_without_a_folder_nothing_is_kept(folder, traces):
  jax.config.update('jax_compilation_cache_dir', None)
  _run(_program(traces))
  _run(_program(traces))
  assert len(traces) == 2 and not _kept(folder)


def test_a_folder_that_cannot_be_written_is_no_hindrance(folder, traces):
  (folder / 'file').touch()
  jax.config.update('jax_compilation_cache_dir', str(folder / 'file'))
  _run(_program(traces))
  assert len(traces) == 1
