"""The library as `pip install .` leaves it: its modules and the packages it requires alone."""

from importlib import metadata
import json
import os
import shutil
import subprocess
import sys

from packaging.requirements import Requirement
import pytest

from tests.support.paths import ROOT

# Imports the library where all but the packages that it requires are missing, and fills a hole.
_PROGRAM = '''
import importlib.metadata, json, sys, time
library, checkpoint, allowed, output = *sys.argv[1:3], set(json.loads(sys.argv[3])), sys.argv[4]
sys.path[:] = [library] + [path for path in sys.path if path and path != ROOT]
owners = importlib.metadata.packages_distributions()

class OnlyRequired:
  def find_spec(self, name, path=None, target=None):
    top = name.partition('.')[0]
    owned_by = {owner.lower().replace('_', '-') for owner in owners.get(top, ())}
    if owned_by and not owned_by & allowed and top not in ('mat_jax', 'convert'):
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, OnlyRequired())
import jax
begun = time.perf_counter()
from mat_jax import Inpainter, UserError
import convert.from_torch
seconds = time.perf_counter() - begun
import numpy as np
assert convert.__file__.startswith(library) and UserError.__module__ == 'mat_jax.errors'
image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
mask = np.ones((70, 90), bool)
mask[20:50, 30:60] = False
result = Inpainter.from_checkpoint(checkpoint).inpaint(image, mask)
assert result.shape == (1, 70, 90, 3) and (result[0][mask] == image[mask]).all()
assert (result[0][~mask] != image[~mask]).any()
# What jax.export needs and does not require.
from jax import export
assert export.export(jax.jit(lambda x: x + 1))(np.zeros(1)).serialize()
import mat_jax.commands.main
from mat_jax.pictures import pictures
pictures.write_picture(output + '/a.png', pictures.Picture(image))
assert (pictures.read_picture(output + '/a.png').pixels == image).all()
print(json.dumps({'seconds': seconds, 'tensorflow': 'tensorflow' in sys.modules}))
'''


def _required(folder):
  """The names of the packages that the library requires without extras, and of theirs."""
  found, (own,) = set(), metadata.distributions(name='mat-jax', path=[folder])
  waiting = [(own, ())]
  while waiting:
    package, extras = waiting.pop()
    for line in package.requires or ():
      requirement = Requirement(line)
      name = requirement.name.lower().replace('_', '-')
      marker = requirement.marker
      if marker and not any(marker.evaluate({'extra': extra}) for extra in ('', *extras)):
        continue
      if name not in found:
        found.add(name)
        waiting.append((metadata.distribution(name), requirement.extras))
  return found


@pytest.fixture(scope='module')
def library(tmp_path_factory):
  """A folder with what `pip install --no-deps .` installs."""
  folder = str(tmp_path_factory.mktemp('library'))
  source = tmp_path_factory.mktemp('source')  # setuptools builds where the source lies
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  for name in ('mat_jax', 'convert', 'eval', 'configs'):
    shutil.copytree(ROOT / name, source / name)
  subprocess.run(
      [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation',
       '--no-index', '--target', folder, str(source)], check=True)
  return folder


def test_it_takes_no_names_but_its_own(library):
  names = {name for name in os.listdir(library) if not name.endswith('.dist-info')}
  assert names == {'mat_jax', 'convert', 'bin'}
  assert os.listdir(os.path.join(library, 'bin')) == ['mat-jax']
  assert sorted(os.listdir(os.path.join(library, 'mat_jax', 'models'))) == [
      'README.md', 'small.safetensors']


def test_it_works_without_tensorflow(library, trained, tmp_path):
  required = _required(library)
  assert not required & {'tensorflow', 'tensorflow-cpu', 'tensorboard', 'matplotlib', 'clu'}
  done = subprocess.run(
      [sys.executable, '-c', f'ROOT = {str(ROOT)!r}\n{_PROGRAM}', library, trained[0],
       json.dumps(sorted(required)), str(tmp_path)],
      cwd=library, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
      check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert not found['tensorflow']
  assert found['seconds'] < 3
