import math

import pytest

from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from eval.metrics.names import METRICS
from eval.results import tables
from eval.results.record import Group
from eval.results.tables import Cell


def _group(metrics=None, distances=None) -> Group:
  return Group(10, 20, {'MAT': metrics or {}}, {}, distances or {})


@pytest.mark.parametrize('value,form,signed,text', [
    (1.25, '.2f', False, '1.25'), (-1.25, '.2f', False, '−1.25'), (1.25, '.2f', True, '+1.25'),
    (0.0, '.4f', False, '0.0000'), (0.00002, '.4f', False, '2.0e-05'),
    (-0.00002, '.4f', False, '−2.0e-05'), (-0.00002, '.4f', True, '−0.0000'),
    (math.inf, '.2f', False, '∞'), (math.nan, '.2f', False, 'undefined')])
def test_numbers(value, form, signed, text):
  assert tables.number(value, form, signed) == text


@pytest.mark.parametrize('metric,low,high,verdict', [
    ('psnr', 0.1, 0.5, 'better'), ('psnr', -0.5, -0.1, 'worse'), ('psnr', -0.1, 0.5, 'unclear'),
    ('l1', 0.1, 0.5, 'worse'), ('l1', -0.5, -0.1, 'better'), ('l1', 0.0, 0.0, 'unclear')])
def test_verdicts_follow_the_direction_of_the_metric(metric, low, high, verdict):
  summary = Summary((low + high) / 2, low, high, 10, 0, 0)
  assert tables.mean_cell(summary, METRICS[metric], True, 10).verdict == verdict
  assert not tables.mean_cell(summary, METRICS[metric], False, 10).verdict


@pytest.mark.parametrize('n,verdict', [(2, 'too few'), (5, 'too few'), (6, 'better')])
def test_few_images_get_no_verdict(n, verdict):
  summary = Summary(1.0, 0.5, 1.5, n, 0, 0)
  assert tables.mean_cell(summary, METRICS['psnr'], True, n).verdict == verdict


def test_n_is_told_where_it_is_not_that_of_the_table():
  metric = METRICS['psnr']
  assert tables.mean_cell(Summary(20, 19, 21, 10, 0, 0), metric, False, 10) == Cell(
      '20.00', '[19.00, 21.00]')
  assert tables.mean_cell(Summary(20, 19, 21, 9, 1, 0), metric, False, 10) == Cell(
      '20.00', '[19.00, 21.00], n = 9')
  assert tables.mean_cell(Summary(20, 20, 20, 1, 0, 0), metric, True, 1) == Cell(
      '+20.00', 'one image, no interval')
  nothing = Summary(math.nan, math.nan, math.nan, 0, 4, 0)
  assert tables.mean_cell(nothing, metric, False, 10) == Cell('undefined')
  assert tables.mean_cell(None, metric, False, 10) == Cell('–')


def test_pairs_without_a_finite_value_are_told():
  metrics = {'psnr': Summary(20, 19, 21, 9, 2, 0), 'ssim': Summary(0.5, 0.4, 0.6, 10, 0, 0),
             'l1_hole': Summary(0.5, 0.4, 0.6, 9, 0, 1)}
  assert tables.left_out(_group(metrics)) == [
      'MAT, PSNR, dB: 2 infinite pairs and 0 undefined pairs left out.',
      'MAT, L1 hole: 0 infinite pairs and 1 undefined pair left out.']


def test_remarks_that_systems_share_stand_once():
  both = {'MAT': {'fid': Distance(3.0, None, None, 9, 20, 2048, note='Few.')},
          'other': {'fid': Distance(4.0, 3.5, 4.5, 10, 20, 2048, note='Few.')},
          'third': {}}
  group, = tables.distance_table(_group(distances=both)).groups
  assert group.title == 'FID ↓'
  assert group.rows == [
      ('MAT', [Cell('3.00'), Cell('–'), Cell('9 / 20'), Cell('2,048'), Cell('', 'Few.')]),
      ('other', [Cell('4.00', '[3.50, 4.50]'), Cell('–'), Cell('10 / 20'), Cell('2,048'), Cell('')])]
  both['other']['fid'] = both['other']['fid']._replace(note='Fewer.')
  group, = tables.distance_table(_group(distances=both)).groups
  assert [cells[-1].detail for _, cells in group.rows] == ['Few.', 'Fewer.']


def test_no_distances_no_table():
  assert tables.distance_table(_group()) is None
