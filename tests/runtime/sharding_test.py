import dataclasses

import jax
import numpy as np
import pytest

from mat_jax.errors import UserError
from mat_jax.runtime import sharding


def test_a_batch_lies_on_the_mesh_unchanged():
  mesh = sharding.make_mesh()
  batch = {'image': np.arange(mesh.devices.size * 2, dtype=np.float32)[:, None]}
  placed = sharding.to_global(batch, mesh)['image']
  assert placed.sharding == sharding.by_batch(mesh)
  np.testing.assert_array_equal(placed, batch['image'])


def test_replicated_arrays_are_the_same_on_every_device(monkeypatch):
  mesh, tree = sharding.make_mesh(), {'kernel': np.arange(6.0).reshape(2, 3), 'count': np.int32(3)}
  alone = sharding.replicate(tree, mesh)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'device_put', None)  # it would ask the other processes
  placed = sharding.replicate(tree, mesh)
  for name, value in tree.items():
    assert placed[name].sharding == alone[name].sharding == sharding.replicated(mesh)
    np.testing.assert_array_equal(placed[name], value)
  assert sharding.replicate(placed, mesh)['kernel'] is placed['kernel']


def test_a_batch_that_the_devices_do_not_divide_is_named():
  class FourDevices:
    devices = np.zeros(4)

  sharding.check_batch_size(8, FourDevices, 'train.batch_size')
  with pytest.raises(UserError, match='train.batch_size is 6, which 4 devices'):
    sharding.check_batch_size(6, FourDevices, 'train.batch_size')
  with pytest.raises(UserError, match='eval.batch_size is 0'):
    sharding.check_batch_size(0, sharding.make_mesh(jax.devices()[:1]), 'eval.batch_size')


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a mesh asks of a TPU device."""

  id: int
  slice_index: int
  platform: str = 'tpu'
  device_kind: str = 'TPU'
  process_index: int = 0
  core_on_chip: int = 0

  @property
  def coords(self):
    """The place in a slice of 2 x 2 chips."""
    return (self.id // 2 % 2, self.id // 4, 0)


def test_slices_are_contiguous_whatever_the_order_of_devices():
  chips = [Chip(i, i % 2) for i in range(8)]
  groups = sharding.by_slice(chips)
  assert [[chip.id for chip in group] for group in groups] == [[0, 2, 4, 6], [1, 3, 5, 7]]
  mesh = sharding.make_mesh(chips)
  assert mesh.axis_names == (sharding.AXIS,) and mesh.devices.shape == (8,)
  assert [chip.slice_index for chip in mesh.devices] == [0] * 4 + [1] * 4
  assert sharding.by_slice(jax.devices()) == [jax.devices()]


def test_slices_of_different_size_are_refused():
  with pytest.raises(UserError, match='the slices have 1 to 2 devices'):
    sharding.by_slice([Chip(0, 0), Chip(1, 1), Chip(2, 1)])
