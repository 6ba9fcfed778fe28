"""Small networks of random weights under their PyTorch names, and files of them."""

import functools
import subprocess
import sys

import jax
import numpy as np

from convert import state_dicts, to_torch
from mat_jax import Discriminator, Generator
from tests.support import torch_files as files
from tests.support.paths import ROOT

GENERATOR = Generator(64, mapping_layers=2, width=0.0625)
DISCRIMINATOR = Discriminator(64, width=0.0625)


@functools.lru_cache
def _cached(module, seed):
  rng = np.random.default_rng(seed)
  variables = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32),
                           state_dicts.variable_shapes(module))
  if isinstance(module, Generator):
    return to_torch.generator_state_dict(variables)
  return to_torch.discriminator_state_dict(variables)


def state_dict(module, seed=0):
  """Random values under the PyTorch names."""
  return dict(_cached(module, seed))


def variables_of(module, values):
  if isinstance(module, Generator):
    return state_dicts.generator_variables(values)
  return state_dicts.discriminator_variables(values)


def assert_same_tree(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == np.float32 and a.shape == b.shape
    np.testing.assert_array_equal(a, b)


def official_tree(arrays, class_name='Generator'):
  """A module of the official pickle from a flat state dict."""
  own = {name: files.official_tensor(array) for name, array in arrays.items() if '.' not in name}
  children = {}
  for name, array in arrays.items():
    if '.' in name:
      child, rest = name.split('.', 1)
      children.setdefault(child, {})[rest] = array
  return files.module(class_name, files.state_of(
      own, children={name: official_tree(part, 'Part') for name, part in children.items()},
      _init_args=(), _init_kwargs={'resolution': 2**1024}, resolution=2**512))


def write_pth(path, networks):
  """A `torch.save` file with a dict of state dicts."""
  tree, arrays = {}, {}
  for network, values in networks.items():
    tree[network] = {}
    for name, array in values.items():
      key = str(len(arrays))
      arrays[key] = np.ravel(array)
      tree[network][name] = files.tensor(files.storage(key, arrays[key]), np.shape(array))
  path.write_bytes(files.archive(tree, arrays))
  return path


def run(*arguments, before='true'):
  """The command line, in a process of its own, after a shell command."""
  return subprocess.run(['sh', '-c', f'{before} && exec "$0" -m "$@"', sys.executable, *arguments],
                        capture_output=True, text=True, check=False,
                        cwd=ROOT)
