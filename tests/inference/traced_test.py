import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.inference import traced


@pytest.fixture
def cache(tmp_path):
  """A folder for JAX's compilation cache, for the time of a test."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  yield tmp_path / 'traced'
  jax.config.update('jax_compilation_cache_dir', before)


class _Counted:
  """A function that counts how often it is traced."""

  def __init__(self, factor: float = 2.0):
    self.factor, self.count = factor, 0

  def __call__(self, tree):
    self.count += 1
    return jnp.sin(tree['x']) * self.factor


_X = {'x': np.arange(3, dtype=np.float32)}
_EXPECTED = np.sin(_X['x']) * 2


def test_a_program_is_traced_once_for_all_processes(cache):
  first, second = _Counted(), _Counted()
  np.testing.assert_allclose(traced.traced(first, 'sine', (_X,))(_X), _EXPECTED, rtol=1e-6)
  assert first.count == 1 and len(os.listdir(cache)) == 1
  np.testing.assert_allclose(traced.traced(second, 'sine', (_X,))(_X), _EXPECTED, rtol=1e-6)
  assert second.count == 0


@pytest.mark.parametrize('identity,x', [
    ('cosine', np.arange(3, dtype=np.float32)), ('sine', np.arange(4, dtype=np.float32)),
    ('sine', np.arange(3, dtype=np.int32))])
def test_other_programs_are_told_apart(cache, identity, x):
  traced.traced(_Counted(), 'sine', (_X,))
  other = _Counted(3.0)
  found = traced.traced(other, identity, ({'x': x},))({'x': x})
  np.testing.assert_allclose(found, np.sin(x) * 3, rtol=1e-6)
  assert other.count == 1 and len(os.listdir(cache)) == 2


def test_an_identity_of_this_process_alone_is_a_mistake(cache):
  with pytest.raises(ValueError, match='is not the same in every process'):
    traced.traced(_Counted(), lambda: 0, (_X,))


def test_an_edit_of_the_networks_is_another_program(cache, monkeypatch):
  traced.traced(_Counted(), 'sine', (_X,))
  monkeypatch.setattr(traced, '_source_digest', lambda: 'edited')
  edited = _Counted()
  traced.traced(edited, 'sine', (_X,))
  assert edited.count == 1


@pytest.mark.parametrize('content', [b'', b'not a program', None])
def test_a_damaged_file_is_replaced(cache, content):
  traced.traced(_Counted(), 'sine', (_X,))
  (path,) = cache.iterdir()
  good = path.read_bytes()
  path.write_bytes(good[:len(good) // 2] if content is None else content)
  again = _Counted()
  np.testing.assert_allclose(traced.traced(again, 'sine', (_X,))(_X), _EXPECTED, rtol=1e-6)
  assert again.count == 1 and path.stat().st_size >= len(good) // 2 + 1


def test_without_a_cache_nothing_is_kept(cache, tmp_path):
  jax.config.update('jax_compilation_cache_dir', None)
  np.testing.assert_allclose(traced.traced(_Counted(), 'sine', (_X,))(_X), _EXPECTED, rtol=1e-6)
  jax.config.update('jax_compilation_cache_dir', 'gs://bucket/cache')
  np.testing.assert_allclose(traced.traced(_Counted(), 'sine', (_X,))(_X), _EXPECTED, rtol=1e-6)
  assert not cache.exists()


def test_what_cannot_be_kept_runs(cache):
  def calls_back(tree):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), jnp.float32), tree['x']) * 2

  np.testing.assert_allclose(traced.traced(calls_back, 'x', (_X,))(_X), _EXPECTED, rtol=1e-6)
  assert not cache.exists()


def test_a_folder_that_cannot_be_written(cache, tmp_path):
  (tmp_path / 'traced').write_text('a file')
  np.testing.assert_allclose(traced.traced(_Counted(), 'sine', (_X,))(_X), _EXPECTED, rtol=1e-6)


def test_the_oldest_are_removed_and_nothing_else(cache, monkeypatch):
  monkeypatch.setattr(traced, '_LIMIT', 2)
  for i in range(3):
    traced.traced(_Counted(), i, (_X,))
    (cache / 'notes.txt').write_text('of someone else')
    time.sleep(0.02)
  assert len(list(cache.glob('*.jax_export'))) == 2 and (cache / 'notes.txt').exists()
  newest = _Counted()
  traced.traced(newest, 2, (_X,))
  assert newest.count == 0
