import jax
import numpy as np
import pytest

from mat_jax import sharding
from mat_jax.errors import UserError


def test_a_batch_lies_on_the_mesh_unchanged():
  mesh = sharding.make_mesh()
  batch = {'image': np.arange(mesh.devices.size * 2, dtype=np.float32)[:, None]}
  placed = sharding.to_global(batch, mesh)['image']
  assert placed.sharding == sharding.by_batch(mesh)
  np.testing.assert_array_equal(placed, batch['image'])


def test_a_batch_that_the_devices_do_not_divide_is_named():
  class FourDevices:
    devices = np.zeros(4)

  sharding.check_batch_size(8, FourDevices, 'train.batch_size')
  with pytest.raises(UserError, match='train.batch_size is 6, which 4 devices'):
    sharding.check_batch_size(6, FourDevices, 'train.batch_size')
  with pytest.raises(UserError, match='eval.batch_size is 0'):
    sharding.check_batch_size(0, sharding.make_mesh(jax.devices()[:1]), 'eval.batch_size')
