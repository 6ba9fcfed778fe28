import os
import subprocess
import sys

import jax
import pytest

from mat_jax.runtime import compilation_cache
from tests.support.paths import ROOT

_PROGRAM = """
import sys
import jax
from mat_jax.runtime import compilation_cache
compilation_cache.enable(sys.argv[1])
print(jax.jit(lambda x: (2 * x).sum())(jax.numpy.arange(4.0)))
"""


@pytest.fixture
def configured():
  """The folder that JAX is told to use, which is put back afterwards."""
  names = 'jax_compilation_cache_dir', 'jax_compilation_cache_max_size'
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(names, (None, -1), strict=True):
    jax.config.update(name, value)
  yield lambda: getattr(jax.config, names[0])
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)


def _compile(folder):
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu',
                 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  result = subprocess.run([sys.executable, '-c', _PROGRAM, str(folder)], cwd=ROOT,
                          env=environment, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert result.stdout == '12.0\n'
  return result.stderr


def test_programs_are_kept_and_damaged_ones_compiled_again(tmp_path):
  folder = tmp_path / 'new' / 'programs'
  assert 'Error' not in _compile(folder)
  assert folder.stat().st_mode & 0o777 == 0o700
  entries = list(folder.glob('*-cache'))
  assert entries
  for entry in entries:
    entry.write_bytes(b'damaged')
  assert 'Error reading persistent compilation cache entry' in _compile(folder)


def test_a_folder_that_cannot_be_is_a_warning(tmp_path):
  (tmp_path / 'file').write_bytes(b'')
  assert 'The compilation cache is off' in _compile(tmp_path / 'file' / 'programs')


def test_the_folder_is_in_the_cache_of_the_user(configured, monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  compilation_cache.enable()
  assert configured() == str(tmp_path / 'mat-jax' / 'compilation_cache')


def test_the_folder_of_jax_is_kept(configured, tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'own'))
  compilation_cache.enable()
  assert configured() == str(tmp_path / 'own')
  assert jax.config.jax_compilation_cache_max_size == -1, 'others may keep programs there'


def test_none_is_used_on_request(configured, tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  compilation_cache.enable('')
  assert configured() is None


def test_another_process_has_a_folder_of_its_own(configured, tmp_path):
  compilation_cache.enable(str(tmp_path), process_index=3)
  assert configured() == str(tmp_path / 'process_3')


_SEVERAL_PROGRAMS = """
import jax, sys
from mat_jax.runtime import compilation_cache
compilation_cache._LIMIT = int(sys.argv[1])
compilation_cache.enable()
for size in range(3, 9):
  jax.jit(lambda x: (2 * x).sum())(jax.numpy.arange(float(size)))
"""


def _compile_several(cache, limit):
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': str(cache),
                 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  environment.pop('JAX_COMPILATION_CACHE_DIR')
  subprocess.run([sys.executable, '-c', _SEVERAL_PROGRAMS, str(limit)], cwd=ROOT,
                 env=environment, check=True)


def test_the_own_folder_has_a_limit_and_other_files_in_it_stay(tmp_path):
  folder = tmp_path / 'mat-jax' / 'compilation_cache'
  _compile_several(tmp_path, 2**30)
  sizes = [path.stat().st_size for path in folder.glob('*-cache')]
  assert len(sizes) >= 6
  (folder / 'thesis.pdf').write_bytes(b'12345')
  os.utime(folder / 'thesis.pdf', (0, 0))
  for path in folder.glob('*-*e'):
    path.unlink()
  limit = 3 * max(sizes)
  _compile_several(tmp_path, limit)
  kept = [path.stat().st_size for path in folder.glob('*-cache')]
  assert 0 < sum(kept) <= limit and len(kept) < len(sizes)
  assert (folder / 'thesis.pdf').read_bytes() == b'12345'
