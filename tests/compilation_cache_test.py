import os
import subprocess
import sys

import jax
import pytest

from mat_jax import compilation_cache

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PROGRAM = """
import sys
import jax
from mat_jax import compilation_cache
compilation_cache.enable(sys.argv[1])
print(jax.jit(lambda x: (2 * x).sum())(jax.numpy.arange(4.0)))
"""


@pytest.fixture
def configured():
  """The folder that JAX is told to use, which is put back afterwards."""
  name = 'jax_compilation_cache_dir'
  before = getattr(jax.config, name)
  jax.config.update(name, None)
  yield lambda: getattr(jax.config, name)
  jax.config.update(name, before)


def _compile(folder):
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu',
                 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  result = subprocess.run([sys.executable, '-c', _PROGRAM, str(folder)], cwd=_ROOT,
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
  assert 'Compiled programs are not kept' in _compile(tmp_path / 'file' / 'programs')


def test_the_folder_is_in_the_cache_of_the_user(configured, monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  compilation_cache.enable()
  assert configured() == str(tmp_path / 'mat-jax' / 'programs')


def test_the_folder_of_jax_is_kept(configured, tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'own'))
  compilation_cache.enable()
  assert configured() == str(tmp_path / 'own')


def test_none_is_used_on_request(configured, tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  compilation_cache.enable('')
  assert configured() is None


def test_what_was_used_longest_ago_is_removed(tmp_path):
  for age, name in enumerate(('new', 'middle', 'old')):
    (tmp_path / name).write_bytes(b'12345')
    os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
  (tmp_path / 'folder').mkdir()
  compilation_cache.remove_oldest(tmp_path, 12)
  assert sorted(os.listdir(tmp_path)) == ['folder', 'middle', 'new']
