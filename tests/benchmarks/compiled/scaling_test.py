import dataclasses

import pytest

from benchmarks.compiled import scaling
from mat_jax.errors import UserError

_CLUSTER = scaling.Cluster(host_chips=8, slice_chips=256, ici=100e9, dcn=3e9)
_WORKLOAD = scaling.Workload(256, 8, seconds_per_kimg=15.0, reduced_bytes=400e6, state_bytes=1e9,
                             reading=1141.0)


def test_a_ring_sends_the_data_almost_twice():
  assert scaling.reduce_seconds(400e6, 1, _CLUSTER) == 0
  assert scaling.reduce_seconds(400e6, 2, _CLUSTER) == pytest.approx(4e-3)
  assert scaling.reduce_seconds(400e6, 256, _CLUSTER) == pytest.approx(8e-3 * 255 / 256)


def test_between_slices_every_chip_sends_its_part():
  within = scaling.reduce_seconds(400e6, 256, _CLUSTER)
  both = scaling.reduce_seconds(400e6, 512, _CLUSTER)
  assert both - within == pytest.approx(400e6 / 256 / 3e9)


def test_cost_is_compute_and_network():
  found = scaling.row(_WORKLOAD, 16, _CLUSTER)
  assert found['batch'] == 128
  assert found['step_seconds'] == pytest.approx(0.12 + found['reduce_seconds'])
  assert found['seconds_per_kimg'] * 16 == pytest.approx(found['chip_seconds_per_kimg'])
  assert found['efficiency'] == pytest.approx(15 / found['chip_seconds_per_kimg'])
  assert found['host_images_per_second'] == pytest.approx(64 / found['step_seconds'])


def test_cores_that_a_host_needs():
  # 8 chips show 533 images/s, and two cores read 1,141.
  assert scaling.cores(_WORKLOAD, _CLUSTER) == 1
  assert scaling.cores(dataclasses.replace(_WORKLOAD, reading=100.0), _CLUSTER) == 11


@pytest.mark.parametrize(('change', 'expected'), [
    ({}, 'the batch: 32 chips'), ({'reduced_bytes': 4e9}, 'the network: on 8 chips'),
    ({'reading': 100.0}, 'reading: a host of 8 chips')])
def test_what_breaks_first(change, expected):
  workload = dataclasses.replace(_WORKLOAD, **change)
  rows = [scaling.row(workload, chips, _CLUSTER) for chips in (8, 16, 32)]
  assert scaling.breaks_first(workload, rows).startswith(expected)


def test_a_fixed_batch_limits_the_chips():
  assert [scaling.most_chips(batch) for batch in (2, 32, 128)] == [1, 8, 32]


def test_with_a_fixed_batch_the_share_of_the_network_grows():
  rows = scaling.rows_of_batch(_WORKLOAD, 128, _CLUSTER)
  assert [(found['chips'], found['batch']) for found in rows] == [(8, 128), (16, 128), (32, 128)]
  assert rows[0]['efficiency'] > rows[1]['efficiency'] > rows[2]['efficiency']


def test_the_table_has_a_line_for_every_row():
  lines = scaling.table([scaling.row(_WORKLOAD, chips, _CLUSTER) for chips in (8, 1024)])
  assert lines.splitlines()[-1].startswith('| 1,024 | 8,192 | 0.01')


@pytest.mark.parametrize('text', ['15', '256:fast', '256:0', ''])
def test_figures_that_are_none(text):
  with pytest.raises(UserError, match='--seconds_per_kimg'):
    scaling.by_resolution(text, 'seconds_per_kimg')
