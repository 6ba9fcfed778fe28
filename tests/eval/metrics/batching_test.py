import jax
import numpy as np
import pytest

from eval.metrics.batching import BatchSizeFinder
from mat_jax.runtime import sharding


def limited(limit, seen):
  """A function of batches that runs out of memory above `limit` images."""
  def function(batch):
    seen.append(len(batch['x']))
    if len(batch['x']) > limit:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.')
    return {'double': 2 * batch['x'], 'sum': batch['x'].sum(1)}
  return function


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(jax.devices()[:1])


def test_a_batch_that_fits_is_one_call(mesh):
  seen = []
  x = np.arange(10.0).reshape(5, 2)
  out = BatchSizeFinder(limited(8, seen), mesh)({'x': x})
  np.testing.assert_array_equal(out['double'], 2 * x)
  assert seen == [5]


def test_batches_are_halved_until_they_fit(mesh):
  seen = []
  compute = BatchSizeFinder(limited(3, seen), mesh)
  x = np.arange(18.0).reshape(9, 2)
  for _ in range(2):
    out = compute({'x': x})
    np.testing.assert_array_equal(out['double'], 2 * x)
    np.testing.assert_array_equal(out['sum'], x.sum(1))
  # 9 and 5 do not fit; then parts of 3, of equal shape, in later batches at once.
  assert seen == [9, 5, 3, 3, 3, 3, 3, 3]


def test_one_image_that_does_not_fit_is_an_error(mesh):
  with pytest.raises(jax.errors.JaxRuntimeError, match='RESOURCE_EXHAUSTED'):
    BatchSizeFinder(limited(0, []), mesh)({'x': np.zeros((4, 2))})


def test_other_errors_are_raised_at_once(mesh):
  seen = []

  def broken(batch):
    seen.append(1)
    raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: no')

  with pytest.raises(jax.errors.JaxRuntimeError, match='INVALID_ARGUMENT'):
    BatchSizeFinder(broken, mesh)({'x': np.zeros((4, 2))})
  assert len(seen) == 1
