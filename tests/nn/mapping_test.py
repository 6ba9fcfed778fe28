import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mat_jax.nn.mapping import Mapping
from tests.support import reference


def _z():
  return reference.layer_input('z', (3, 16))


def _expected(case):
  return reference.load('layers.npz')[f'mapping/{case}']


def test_matches_the_reference_with_and_without_truncation():
  module = Mapping(16, 6, 3)
  variables = reference.filled(module, 'mapping', _z())
  assert reference.relative_error(module.apply(variables, _z()), _expected('psi1')) <= 1e-5
  cut = module.apply(variables, _z(), truncation_psi=0.5, truncation_cutoff=2)
  assert reference.relative_error(cut, _expected('psi05_cut2')) <= 1e-5


def test_labels_match_the_reference():
  module = Mapping(16, 6, 3, label_dim=4)
  labels = np.eye(4, dtype=np.float32)[[0, 2, 3]]
  variables = reference.filled(module, 'mapping_cond', _z(), labels)
  assert reference.relative_error(module.apply(variables, _z(), labels), _expected('cond')) <= 1e-5
  with pytest.raises(ValueError, match='labels'):
    module.apply(variables, _z())


def test_training_moves_the_average_before_truncation():
  module = Mapping(16, 6, 3)
  variables = reference.filled(module, 'mapping', _z())
  w = module.apply(variables, _z())[:, 0]
  old = variables['buffers']['w_avg']
  collapsed, changed = module.apply(
      variables, _z(), truncation_psi=0.0, train=True, mutable=['buffers'])
  new = changed['buffers']['w_avg']
  np.testing.assert_allclose(new, 0.995 * old + 0.005 * w.mean(0), rtol=1e-5)
  np.testing.assert_allclose(collapsed[0, 0], new, rtol=1e-6)
  # Without a mutable collection nothing moves, and the call still works.
  kept = module.apply(variables, _z(), truncation_psi=0.0, train=True)
  np.testing.assert_allclose(kept[0, 0], old, rtol=1e-6)


def test_the_average_passes_no_gradient():
  module = Mapping(16, 6, 3)
  variables = reference.filled(module, 'mapping', _z())

  def total(params):
    w, _ = module.apply({**variables, 'params': params}, _z(), truncation_psi=0.0, train=True,
                        mutable=['buffers'])
    return jnp.sum(w)

  gradients = jax.grad(total)(variables['params'])
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))
