from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from eval.results import markdown
from tests.eval.results.record_test import make


def lines_with(text, words):
  return [line for line in text.splitlines() if words in line]


def line_after(text, words):
  lines = text.splitlines()
  place, = (i for i, line in enumerate(lines) if words in line)
  return lines[place + 1]


def test_every_number_has_its_interval_and_count():
  text = markdown.markdown(make())
  assert 'Step 4 (0.0 kimg), split test, 2 masks per image.' in text
  assert '## Large masks: 5 images, 10 pairs' in text
  head, *_ = lines_with(text, '| System |')
  assert head == '| System | PSNR, dB ↑ | L1 hole ↓ |'
  assert '| MAT | 20.50 [19.00, 22.00] | undefined |' in text.splitlines()
  assert '| MAT − mean colour | +20.50 [+19.00, +22.00] (too few) | – |' in text.splitlines()
  of_a_bin, _ = (line for line in text.splitlines() if line.startswith('| PSNR, dB ↑ |'))
  assert '| 20.50 [19.00, 22.00] |' in of_a_bin and '0-20 % 5 images, 10 pairs' in text
  row = line_after(text, '| **FID ↓** |')
  assert '| MAT | 3.50 [3.00, 4.00] |' in row and '5 / 10 | 2,048 | 1 |' in row
  assert '1. few images' in text.splitlines() and '> No metrics with x.' in text
  assert 'MAT, PSNR, dB: 1 infinite pair and 2 undefined pairs left out.' in text


def test_what_cannot_be_measured_is_said_in_words():
  text = markdown.markdown(make())
  row = line_after(text, '| **P-IDS ↑** |')
  assert 'not measurable' in row and '| 2 |' in row and ' 0 ' not in row
  assert '2. too few' in text.splitlines()


def test_kernel_distance_comes_before_frechet():
  record = make()
  distances = record.mask_sets['large'].distances['MAT']
  distances['kid'] = Distance(0.01, 0.0, 0.02, 5, 10, 2048)
  text = markdown.markdown(record)
  assert text.index('| **KID ↓** |') < text.index('| **FID ↓** |')


def test_one_image_has_no_interval():
  record = make()
  record.mask_sets['large'].metrics['MAT']['psnr'] = Summary(20.5, 20.5, 20.5, 1, 0, 0)
  assert '| MAT | 20.50 one image, no interval |' in markdown.markdown(record)


def test_names_of_users_do_not_break_the_table():
  group = make().mask_sets['large']
  group = group._replace(metrics={'a|b\nc': group.metrics['MAT']}, differences={}, distances={})
  text = markdown.markdown(make(mask_sets={'large': group}, bins={}))
  assert lines_with(text, '| a\\|b c |')


def test_files(tmp_path):
  markdown.write(make(), str(tmp_path))
  assert (tmp_path / 'metrics.md').read_text() == markdown.markdown(make()) + '\n'
