"""Of `benchmarks.measured.parity` and what it compares with."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.measured import parity
from benchmarks.reference import published, published_phases
from convert import names
from tests.support.paths import ROOT


def test_networks_are_compared_with_the_pixels_that_were_kept():
  case = published.CASES['const_psi05']
  golden = published.load('networks_256_every_4th.npz')
  results = [np.repeat(np.repeat(published.nhwc(golden[f'const_psi05/{name}']), 4, 1), 4, 2)
             for name in ('image', 'stage1')]
  assert parity.compare_networks(case, results) == {
      'const_psi05/image': 0.0, 'const_psi05/stage1': 0.0, 'allowed': 2e-5}
  results[1] = results[1] + 0.5 * np.abs(results[1]).max()
  assert case.errors(results)['const_psi05/stage1'] == pytest.approx(0.5)


@pytest.fixture(scope='module')
def gradients():
  """Gradients of R1 whose norms are the published ones, without their directions."""
  golden = published.load('train_step_256.json')['gradients']
  shapes = published.load('manifest_256.json')['discriminator']['parameters']

  def of(path, _):
    path = '/'.join(key.key for key in path)
    name = names.discriminator_name(path, 256)
    value = np.zeros(shapes[name], np.float32)
    value.flat[0] = golden[f'Dreg/{name}'][0]
    return names.to_our_layout(value, path.rpartition('/')[2], False)

  return jax.tree_util.tree_map_with_path(of, published.discriminator_variables()['params'])


def test_gradients_are_compared_by_norm_and_direction(gradients):
  phase = published_phases.PHASES['Dreg']
  losses = published.load('train_step_256.json')['losses']['Dreg']
  metrics = {'loss/r1': losses['Loss/r1_penalty'],
             'loss/r1_stage1': 2 * losses['Loss/r1_penalty_s1']}
  row = parity.compare_gradients(phase, (gradients, metrics))
  assert row['norm'] < 1e-6 and row['beyond'] == 0 and row['dot_median'] > 1e-2
  assert row['loss'] == pytest.approx(1.0) and row['gradients'] == len(jax.tree.leaves(gradients))
  gradients['dis']['conv']['kernel'] = 1.1 * gradients['dis']['conv']['kernel']
  row = parity.compare_gradients(phase, (gradients, metrics))
  assert row['norm'] == pytest.approx(0.1, rel=1e-3) and row['beyond'] == 1
  assert row['norm_of'] == 'Dis.8.weight'
  del gradients['dis']['conv']['kernel']
  with pytest.raises(KeyError, match='Dis.8.weight'):
    phase.errors((gradients, metrics))


def test_precisions_are_of_the_products_and_of_the_networks():
  def products(name):
    chosen = parity.precision(name)
    with chosen.products():
      x = jax.ShapeDtypeStruct((2, 2), chosen.dtype)
      return str(jax.make_jaxpr(jnp.dot)(x, x))

  assert 'HIGHEST' in products('float32') and 'bf16' not in products('float32')
  assert 'HIGHEST' not in products('default') and 'bf16' not in products('default')
  assert 'HIGHEST' not in products('bfloat16') and 'bf16' in products('bfloat16')


def test_a_machine_that_only_measures_needs_few_packages():
  program = '''
import sys
for name in ('clu', 'pooch', 'requests', 'safetensors', 'tensorflow', 'torch', 'tqdm'):
  sys.modules[name] = None
from benchmarks.measured import device, parity
'''
  subprocess.run([sys.executable, '-c', program], cwd=ROOT,
                 env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, check=True)


def test_a_mistake_is_one_sentence():
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.measured.parity', '--programs=generator'], cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith("error: --programs has 'generator'")
