"""The report as a whole: what is in the page and beside it."""

from html.parser import HTMLParser
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from eval.metrics.bootstrap import paired_difference, summarize
from eval.report import report
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets
from tests.support import report_workdir

_BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser',
                                                'google-chrome'))), None)
# Elements without an end.
_VOID = ('meta', 'img', 'br', 'link', 'input')


class _Page(HTMLParser):
  """Elements of a page: their attributes, and the text in them."""

  def __init__(self, path: str):
    super().__init__()
    self.elements: list[tuple[str, dict[str, str], list[str]]] = []
    self._open: list[int] = []
    self.feed(pathlib.Path(path).read_text(encoding='utf-8'))
    assert not self._open

  def handle_starttag(self, tag, attributes):
    self.elements.append((tag, dict(attributes), []))
    if tag not in _VOID:
      self._open.append(len(self.elements) - 1)

  def handle_endtag(self, tag):
    assert self.elements[self._open.pop()][0] == tag

  def handle_data(self, data):
    for index in self._open:
      self.elements[index][2].append(data)

  def attributes(self, tag: str) -> list[dict[str, str]]:
    return [attributes for name, attributes, _ in self.elements if name == tag]

  def texts(self, tag: str) -> list[str]:
    return [re.sub(r'\s+', ' ', ''.join(texts)).strip()
            for name, _, texts in self.elements if name == tag]

  def rows(self, title: str) -> list[str]:
    return [row for row in self.texts('tr') if row.startswith(title)]


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
  """An evaluation at three moments, and a baseline that was evaluated once, in half the pairs'
  pictures."""
  folder = tmp_path_factory.mktemp('report')
  ours = report_workdir.make(folder / 'ours', kimg=(100.0, 200.0, 300.0))
  report_workdir.write_stats(ours)
  return ours, report_workdir.make(folder / 'theirs', seed=1, kimg=(0.0,), pictures=2)


@pytest.fixture(scope='module')
def alone(workdirs):
  return report.make_report(workdirs[0])


@pytest.fixture(scope='module')
def compared(workdirs, tmp_path_factory):
  output = str(tmp_path_factory.mktemp('compared') / 'report')
  return report.make_report(*workdirs, output=output)


def test_in_a_bucket_it_is_the_same(workdirs, compared, bucket):
  address, _ = bucket
  for name, workdir in zip(('ours', 'theirs'), workdirs, strict=True):
    buckets.upload(workdir, f'{address}/{name}', buckets.files_of(workdir))
  page = report.make_report(f'{address}/ours', f'{address}/theirs')
  assert page == f'{address}/ours/report/report.html'
  with open(compared, 'rb') as file:
    assert buckets.read_file(page) == file.read()
  assert report.make_report(f'{address}/ours') == page
  buckets.write(f'{address}/ours/report/other.txt', b'')
  with pytest.raises(UserError, match=f"{address}/ours/report holds 'other.txt'"):
    report.make_report(f'{address}/ours')
  with pytest.raises(UserError, match=f'there is no evaluation in {address}/no/eval'):
    report.make_report(f'{address}/no')


@pytest.mark.parametrize('which', ['alone', 'compared'])
def test_page_needs_nothing_else(which, request):
  page = _Page(request.getfixturevalue(which))
  assert not page.attributes('script') and not page.attributes('link')
  assert all(image['src'].startswith('data:image/') and image['alt']
             for image in page.attributes('img'))
  assert all(link['href'].startswith('#') for link in page.attributes('a'))
  targets = {attributes.get('id') for _, attributes, _ in page.elements}
  assert {link['href'][1:] for link in page.attributes('a')} <= targets
  policy, = (meta['content'] for meta in page.attributes('meta') if 'http-equiv' in meta)
  assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  assert all(head.get('scope') in ('col', 'row', 'rowgroup') for head in page.attributes('th'))
  style, = page.texts('style')
  assert '@media print' in style and 'url(' not in style


def test_text_from_files_is_escaped(alone):
  page = _Page(alone)
  assert any(report_workdir.HOSTILE in heading for heading in page.texts('h5'))
  assert f'masked of {report_workdir.HOSTILE}' in [image['alt'] for image in
                                                   page.attributes('img')]
  assert report_workdir.NOTE in page.texts('li')


def test_head_says_what_was_evaluated(alone, compared):
  metadata = _Page(alone).texts('dd')
  assert metadata[0] == 'MAT, some run, step 2,400 (300.0 kimg)'
  assert '10 of the split test' in metadata and '1 more image could not be read' in metadata
  assert 'resolution 16, masks large+small, hole range [0.0, 1.0], seed 0' in metadata
  assert 'MAT, some run, step 0 (0.0 kimg)' in _Page(compared).texts('dd')
  assert '40 of the 40 of the evaluation and the 40 of the baseline' in _Page(compared).texts('dd')


def test_tables_without_a_baseline(alone):
  table = report_workdir.table()
  large = table.where(table.masks == 'large')
  mean = summarize(large.metrics['MAT']['lpips_alex'], large.image_index)
  head, row = (_Page(alone).rows(title)[0] for title in ('System', 'MAT '))
  assert head == 'System PSNR, dB ↑ SSIM ↑ LPIPS alex ↓ PSNR hole, dB ↑'
  assert f'{mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}]' in row
  assert _Page(alone).rows('mean colour ') and _Page(alone).rows('MAT − mean colour ')
  assert 'MAT, PSNR, dB: 1 infinite pair and 0 undefined pairs left out.' in _Page(alone).texts('p')


def test_differences_from_the_baseline_have_a_verdict(compared):
  ours, theirs = report_workdir.table(0), report_workdir.table(1)
  large = ours.masks == 'large'
  page, verdicts = _Page(compared), set()
  for name, sign in (('psnr_hole', 1), ('lpips_alex', -1)):
    for title, other in (('proposed − baseline ', theirs.metrics['MAT']),
                         ('proposed − mean colour ', ours.metrics['mean colour'])):
      difference = paired_difference(
          ours.metrics['MAT'][name][large], other[name][large], ours.image_index[large])
      low, high = sorted((sign * difference.low, sign * difference.high))
      verdict = 'better' if low > 0 else 'worse' if high < 0 else 'unclear'
      form = '+.2f' if sign > 0 else '+.4f'
      assert f'{difference.mean:{form}}{verdict}'.replace('-', '−') in page.rows(title)[0]
      verdicts.add(verdict)
  assert len(verdicts) > 1


def test_distances_are_never_a_bare_zero(alone):
  rows = _Page(alone).texts('tr')
  first = [row for row in rows if row.startswith(('KID', 'FID', 'P-IDS'))]
  assert [row.split()[0] for row in first[:2]] == ['KID', 'FID']
  kid, fid, p_ids, p_ids_vgg16 = (
      rows[rows.index(title) + 1] for title in ('KID ↓', 'FID ↓', 'P-IDS ↑', 'P-IDS VGG16 ↑'))
  assert kid.startswith('MAT 2.1e-06 [1.0e-06, 3.0e-06]')
  assert 'not measurable' in p_ids and 'Needs 2,100 pairs.' in p_ids
  assert 'Biased.' in fid and '10 / 20 2,048' in fid
  assert '0.1250 [0.1000, 0.1500] 0.1300 at n = 15' in p_ids_vgg16
  assert '0.2345 at n = 15' in p_ids_vgg16


def test_bands_of_the_baseline_are_of_matched_pairs(compared):
  page = _Page(compared)
  head = next(row for row in page.rows('Metric ') if '0-20 %' in row)
  assert head == 'Metric 0-20 % 10 images, 20 pairs above 60 % 10 images, 20 pairs'
  groups = [''.join(texts) for _, attributes, texts in page.elements
            if attributes.get('scope') == 'rowgroup']
  distances = ['KID ↓', 'FID ↓', 'P-IDS ↑', 'P-IDS VGG16 ↑']
  assert groups == [*2 * ['Differences', *distances], 'proposed', 'baseline', 'mean colour',
                    'proposed − baseline', 'proposed − mean colour']


@pytest.mark.parametrize('which,names', [
    ('alone', ['best', 'figure3', 'worst']),
    ('compared', ['best', 'figure3', 'gains', 'losses', 'worst'])])
def test_figures_are_files_too(which, names, request):
  folder = pathlib.Path(request.getfixturevalue(which)).parent
  expected = {f'{name}_{masks}.png' for name in names for masks in ('large', 'small')}
  assert {path.name for path in folder.iterdir()} == (
      expected | {'figure1.png', 'figure2.png', 'report.html'})
  for path in folder.glob('*.png'):
    with Image.open(path) as image:
      assert image.format == 'PNG' and min(image.size) > 500 and max(image.size) < 6000
      assert np.asarray(image.convert('L')).std() > 5  # something is drawn


def test_comparisons_show_different_images_with_scores(alone, compared):
  page = _Page(alone)
  titles = [text for text in page.texts('figcaption') if text.startswith(('MAT', 'masked'))]
  # 8 comparisons, 4 best and 4 worst cases, of two sets of masks.
  assert len(titles) == 2 * 2 * 16
  assert titles[0] == 'masked' and re.fullmatch(
      r'MAT PSNR \d\d\.\d\d dB SSIM 0\.\d{4} LPIPS 0\.\d{4}', titles[1])
  first = page.texts('h5')[:8]
  assert len({heading.split()[0] for heading in first}) == 8 and 'mask 0, hole 5 %' in first[0]
  assert _Page(compared).texts('div').count('picture not kept') > 0
  assert any(text.startswith('baseline PSNR') for text in _Page(compared).texts('figcaption'))


def test_says_of_how_many_pairs_the_pictures_were_kept(tmp_path):
  some = report_workdir.make(tmp_path / 'some', pictures=2)
  page = _Page(report.make_report(some))
  assert page.texts('p').count('Of the 4 pairs whose pictures were kept, of 20.') == 4
  shutil.rmtree(os.path.join(some, 'eval', 'pictures'))
  path = report.make_report(some)  # replaces the first one
  assert any(text.startswith('No pictures of these pairs were kept') for text in
             _Page(path).texts('p'))
  assert sorted(os.listdir(os.path.dirname(path))) == ['figure1.png', 'figure2.png', 'report.html']


def test_replaces_nothing_but_a_report(workdirs, tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  with pytest.raises(UserError, match='thesis.txt'):
    report.make_report(workdirs[0], output=str(tmp_path))
  assert os.listdir(tmp_path) == ['thesis.txt']


def test_command_line_says_what_is_missing(tmp_path):
  done = subprocess.run([sys.executable, '-m', 'eval.report', f'--workdir={tmp_path}'],
                        capture_output=True, text=True, check=False)
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert 'there is no evaluation' in done.stderr and '--mode=eval' in done.stderr
  assert not os.listdir(tmp_path)


def _screenshot(page: str, picture: str) -> str:
  """What the browser logs about a page."""
  done = subprocess.run(
      [_BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr',
       '--window-size=1280,6000', f'--screenshot={picture}', pathlib.Path(page).as_uri()],
      capture_output=True, text=True, check=True, timeout=120)
  return '\n'.join(line for line in done.stderr.splitlines() if ':CONSOLE' in line)


@pytest.mark.skipif(_BROWSER is None, reason='there is no Chromium')
def test_a_browser_draws_the_page_without_an_error(compared, tmp_path):
  broken = pathlib.Path(compared).read_text().replace(
      '</main>', '<img src="missing.png"></main>')
  (tmp_path / 'broken.html').write_text(broken)
  picture = str(tmp_path / 'page.png')
  assert 'missing.png' in _screenshot(str(tmp_path / 'broken.html'), picture)
  assert _screenshot(compared, picture) == ''
  with Image.open(picture) as image:
    assert image.size == (1280, 6000)
    pixels = np.asarray(image.convert('L'))
  # Text and figures all the way down.
  assert all(part.std() > 5 for part in np.split(pixels, 6))
