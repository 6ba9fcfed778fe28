import math

from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from eval.results import tables
from tests.eval.results.record_test import make


def lines_with(text, words):
  return [line for line in text.splitlines() if words in line]


def test_every_number_has_its_interval_and_count():
  text = tables.markdown(make())
  assert 'Step 4 (0.0 kimg), split test, 2 masks per image.' in text
  assert '## Large masks: 5 images, 10 pairs' in text
  row, _ = lines_with(text, '| MAT | 20.50')  # of the masks and of a bin
  assert '20.50 [19.00, 22.00]' in row and 'undefined' in row
  (row,) = lines_with(text, '| MAT - mean colour')
  assert '+20.50 [+19.00, +22.00]' in row
  (row,) = lines_with(text, '| FID ↓ | MAT')
  assert '3.50 [3.00, 4.00]' in row and '5 / 10 | 2,048 | 1 |' in row and '1. few images' in text
  assert lines_with(text, '| 0-20 % | 10 of 5 images | MAT')
  assert '> No metrics with x.' in text
  assert 'MAT, PSNR, dB: 1 infinite and 2 undefined pairs left out.' in text


def test_what_cannot_be_measured_is_said_in_words():
  text = tables.markdown(make())
  (row,) = lines_with(text, '| P-IDS ↑ | MAT')
  assert 'not measurable' in row and '| 2 |' in row and ' 0 ' not in row
  assert '2. too few' in text.splitlines()


def test_kernel_distance_comes_before_frechet():
  record = make()
  distances = record.mask_sets['large'].distances['MAT']
  distances['kid'] = Distance(0.01, 0.0, 0.02, 5, 10, 2048)
  text = tables.markdown(record)
  assert text.index('| KID ↓ |') < text.index('| FID ↓ |')


def test_ceilings():
  distance = Distance(0.05, 0.04, 0.06, 3000, 3000, 2048, 0.23, 3000)
  assert tables.distance_ceiling(distance, '.4f') == '0.2300 (n = 3,000)'
  smaller = distance._replace(ceiling_n=2500, at_ceiling_n=0.03)
  assert tables.distance_ceiling(smaller, '.4f') == (
      '0.2300 (n = 2,500; results at that n: 0.0300)')
  assert tables.distance_ceiling(smaller._replace(at_ceiling_n=0.0), '.4f') == (
      '0.2300 (n = 2,500; results at that n: none)')
  assert tables.distance_ceiling(distance._replace(ceiling=None), '.4f') == ''
  assert tables.distance_value(distance._replace(value=math.nan), '.4f') == 'not measurable'


def test_one_image_has_no_interval():
  record = make()
  record.mask_sets['large'].metrics['MAT']['psnr'] = Summary(20.5, 20.5, 20.5, 1, 0, 0)
  assert '20.50 (one image)' in tables.markdown(record)


def test_names_of_users_do_not_break_the_table():
  group = make().mask_sets['large']
  group = group._replace(metrics={'a|b\nc': group.metrics['MAT']}, differences={}, distances={})
  text = tables.markdown(make(mask_sets={'large': group}, bins={}))
  assert '| a\\|b c | 20.50' in text


def test_files(tmp_path):
  tables.write(make(), str(tmp_path))
  assert (tmp_path / 'metrics.md').read_text() == tables.markdown(make()) + '\n'
