import json

import numpy as np

from eval import tables


def _report(values):
  return tables.Report(step=7, kimg=0.5, split='test', masks='large random', masks_per_image=2,
                       unreadable=0,
                       summaries={'MAT': {'psnr': tables.summarize(values)}})


def test_masks_are_averaged_before_images_are_resampled():
  values = np.array([[1.0, 3.0], [10.0, 14.0], [2.0, 4.0]])
  summary = tables.summarize(values)
  assert summary.n == 3
  np.testing.assert_allclose(summary.mean, np.mean([2.0, 12.0, 3.0]))
  assert 2.0 <= summary.low <= summary.mean <= summary.high <= 12.0


def test_infinite_and_undefined_pairs_are_left_out_and_told():
  values = np.array([[1.0, np.inf], [np.nan, 5.0], [np.nan, np.nan]])
  summary = tables.summarize(values)
  assert (summary.n, summary.infinite, summary.undefined) == (2, 1, 3)
  np.testing.assert_allclose(summary.mean, 3.0)
  text = tables.markdown(_report(values))
  assert '1 infinite and 3 undefined' in text and 'PSNR' in text


def test_files(tmp_path):
  report = _report(np.full((2, 2), np.inf))
  tables.write_json(report, str(tmp_path / 'metrics.json'))
  tables.write_markdown(report, str(tmp_path / 'metrics.md'))
  content = json.loads((tmp_path / 'metrics.json').read_text())
  assert content['step'] == 7 and content['summaries']['MAT']['psnr']['mean'] is None
  assert 'undefined' in (tmp_path / 'metrics.md').read_text()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['metrics.json', 'metrics.md']
