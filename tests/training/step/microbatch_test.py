import logging
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
import main
from mat_jax.checkpoints import step_directories
from mat_jax.runtime import sharding
from mat_jax.training.step import aot, microbatch, settings
from tests.conftest import tiny_config

_BATCH_SIZE = 32
_BYTES_PER_IMAGE = 10
_STATE = {'step': jnp.zeros(100, jnp.uint8)}


@pytest.mark.parametrize('batch_size,devices,expected', [
    (8, 1, [8, 4]), (32, 1, [32, 16, 8, 4]), (24, 1, [24, 12, 8, 4]), (32, 4, [32, 16]), (4, 1, [4]),
    (2, 1, [2]), (8, 8, [8]), (12, 2, [12])])
def test_sizes_give_every_device_whole_groups(batch_size, devices, expected):
  assert microbatch.sizes(batch_size, devices) == expected


class _Program:
  """A step that takes 100 bytes and 10 for each image, of a device with some room."""

  def __init__(self, size, room, refuses):
    self._size, self._room, self._refuses = size, room, refuses
    self.prepared = 0

  def prepare(self, state, features, batch):
    self.prepared += 1
    needed = 100 + _BYTES_PER_IMAGE * self._size
    if self._refuses and needed > self._room:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm')
    analysis = mock.Mock(argument_size_in_bytes=100, output_size_in_bytes=100,
                         alias_size_in_bytes=100, temp_size_in_bytes=needed - 100)
    return mock.Mock(memory_analysis=lambda: analysis)

  def __call__(self, state, features, batch):
    state['step'].delete()  # donated
    if 100 + _BYTES_PER_IMAGE * self._size > self._room:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')
    return {'step': jnp.full(100, self._size, jnp.uint8)}, jnp.zeros(9)


def _make(monkeypatch, limit, room=10**6, refuses=False, **kwargs):
  """A step for a device, the microbatches that it has chosen, and the programs it has made."""
  made, chosen = {}, []

  def compiled_step(networks, options, mesh, freeze_generator):
    return made.setdefault(options.microbatch, _Program(options.microbatch, room, refuses))

  monkeypatch.setattr(aot, 'compiled_step', compiled_step)
  monkeypatch.setattr(microbatch, 'memory_limit', lambda mesh: limit)
  config = tiny.get_config()
  config.train.batch_size = _BATCH_SIZE
  step = microbatch.Step(None, settings.training_from_config(config),
                         sharding.make_mesh(jax.devices()[:1]),
                         **{'is_fixed': False, 'chosen': chosen.append} | kwargs)
  return step, chosen, made


def _state():
  return jax.tree.map(jnp.copy, _STATE)


@pytest.mark.parametrize('limit,expected,tried', [
    (None, 32, []), (1000, 32, [32]), (467, 32, [32]), (466, 16, [32, 16]), (200, 8, [32, 8]),
    (100, 4, [32, 4])])
def test_the_largest_that_the_compiler_says_to_fit(monkeypatch, caplog, limit, expected, tried):
  step, chosen, made = _make(monkeypatch, limit)
  with caplog.at_level(logging.INFO):
    step.prepare(_state(), None, None)
  assert step.settings.microbatch == chosen[-1] == expected
  assert [size for size, program in made.items() if program.prepared] == tried or [expected]
  assert ('remat=True' in caplog.text) == (limit == 100)


def test_a_compiler_that_refuses_counts_as_too_large(monkeypatch):
  step, chosen, _ = _make(monkeypatch, 1000, room=200, refuses=True)
  step.prepare(_state(), None, None)
  assert chosen == [32, 16, 8]


def test_a_step_that_finds_no_room_is_done_in_smaller_parts(monkeypatch, caplog):
  step, chosen, _ = _make(monkeypatch, 10**6, room=200)
  state = _state()
  step.prepare(state, None, None)
  found, _ = step(state, None, None)
  assert chosen == [32, 16, 8] and step.settings.microbatch == 8
  np.testing.assert_array_equal(found['step'], np.full(100, 8))
  assert 'microbatches of 8 images' in caplog.text


def test_other_errors_stay(monkeypatch):
  step, _, made = _make(monkeypatch, 10**6)
  state = _state()
  step.prepare(state, None, None)
  made[32].__class__ = type('Broken', (_Program,), {'__call__': lambda *args: 1 / 0})
  with pytest.raises(ZeroDivisionError):
    step(state, None, None)


@pytest.mark.parametrize('limit,before,expected', [
    (10**6, 16, 16), (200, 16, 8), (10**6, 12, 12), (200, 12, 8)])
def test_a_run_keeps_what_it_has_on_a_larger_device_and_halves_it_on_a_smaller(
    monkeypatch, limit, before, expected):
  step, _, _ = _make(monkeypatch, limit, at_most=before)
  step.prepare(_state(), None, None)
  assert step.settings.microbatch == expected


def test_a_fixed_one_is_not_looked_for(monkeypatch):
  step, chosen, made = _make(monkeypatch, 100, is_fixed=True)
  step.prepare(_state(), None, None)
  assert chosen == [32] and list(made) == [32]


def test_processes_take_what_fits_all_of_them(monkeypatch):
  fits = iter([[1, 0], [1, 1]])
  monkeypatch.setattr(microbatch.cluster, 'all_gather', lambda name, value: next(fits))
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  step, chosen, _ = _make(monkeypatch, 10**6)
  step.prepare(_state(), None, None)
  assert chosen == [32, 16]


def test_the_limit_is_known_here():
  limit = microbatch.memory_limit(sharding.make_mesh())
  assert limit is None or limit > 2**28


def test_it_is_stored_with_the_run(trained):
  workdir, _ = trained
  assert step_directories.read_meta(step_directories.find_step(workdir))['microbatch'] == 4


@pytest.mark.slow
def test_training_resumes_with_the_microbatch_that_it_had(monkeypatch, tmp_path):
  """The same bits as with that microbatch fixed, though the second device has more room."""
  needed, memory_of = [], microbatch.memory_of
  monkeypatch.setattr(microbatch, 'memory_of', lambda x: needed.append(memory_of(x)) or needed[-1])

  def run(name, steps, limit, size='auto'):
    monkeypatch.setattr(microbatch, 'memory_limit', lambda mesh: limit)
    config = tiny_config(steps)
    config.train.batch_size, config.train.total_kimg = 8, steps * 0.008
    config.train.microbatch = size
    return jax.device_get(main.train(config, str(tmp_path / name)))

  run('whole', 1, 10**12)
  assert len(needed) == 1
  run('found', 1, needed[0])
  assert len(needed) == 3 and needed[2] < needed[0]
  run('fixed', 1, 0, 4)
  jax.tree.map(np.testing.assert_array_equal, run('found', 2, 10**12), run('fixed', 2, 0, 4))
