import dataclasses
import os

import numpy as np
import pytest

from eval.report import inputs
from eval.results import pairs
from mat_jax.errors import UserError
from tests.support import report_workdir


@pytest.fixture(scope='module')
def ours(tmp_path_factory):
  workdir = report_workdir.make(tmp_path_factory.mktemp('ours') / 'run', kimg=(20.0, 10.0))
  report_workdir.write_stats(workdir)
  return inputs.load(workdir)


def _table(workdir: str) -> str:
  return os.path.join(workdir, 'eval', 'per_image.csv')


def _match(ours, workdir: str) -> inputs.Content:
  return inputs.gather(ours, inputs.load(workdir))


def test_reads_the_last_evaluation_and_those_before_by_kimg(ours):
  assert ours.record.kimg == 10.0 and ours.system == 'MAT' and len(ours.pairs) == 40
  assert [one.kimg for one in ours.history] == [10.0, 20.0]


def test_validations_are_read_as_far_as_they_are_complete(ours):
  assert ours.validation == [(2.0, {'psnr': 17.0}), (3.0, {'psnr': 18.0, 'ssim': 0.5})]


def test_evaluations_with_other_settings_are_left_out(tmp_path):
  workdir = report_workdir.make(tmp_path / 'run', settings={'seed': 1})
  record = inputs.load(workdir).record
  inputs.record.write(dataclasses.replace(record, kimg=5.0, settings={'seed': 2}),
                             os.path.join(workdir, 'eval'))
  found = inputs.load(workdir)
  assert [one.kimg for one in found.history] == [5.0] and found.left_out == 1


def test_evaluations_of_other_runs_are_left_out(tmp_path):
  """Of two runs with equal steps, the one that was evaluated last makes the curve."""
  workdir = report_workdir.make(tmp_path / 'run', kimg=(5.0, 10.0), source='/runs/y')
  record = inputs.load(workdir).record
  for kimg in (5.0, 20.0):
    inputs.record.write(dataclasses.replace(
        record, kimg=kimg, step=int(8 * kimg), unreadable=7, source='.', title='MAT, run'),
        os.path.join(workdir, 'eval'))
  found = inputs.load(workdir)
  assert [(one.kimg, one.unreadable) for one in found.history] == [(5.0, 7), (20.0, 7)]
  assert found.left_out == 2
  earlier = dataclasses.replace(record, kimg=30.0, step=240, source=None, title='MAT, run')
  inputs.record.write(earlier, os.path.join(workdir, 'eval'))
  assert [one.kimg for one in inputs.load(workdir).history] == [5.0, 20.0, 30.0]


@pytest.mark.parametrize('line', ['{"progress/kimg": 1, "validation/psnr": "high"}', 'no JSON',
                                  '{"progress/kimg": null}', '7'])
def test_a_broken_row_of_the_training_is_named(tmp_path, line):
  workdir = report_workdir.make(tmp_path / 'run')
  (tmp_path / 'run' / 'stats.jsonl').write_text(line + '\n')
  with pytest.raises(UserError, match=r'stats\.jsonl cannot be read'):
    inputs.load(workdir)


@pytest.mark.parametrize('name', ['../../elsewhere', 'files'])
def test_sets_of_masks_that_the_evaluation_lacks_are_refused(tmp_path, name):
  workdir = report_workdir.make(tmp_path / 'run')
  found = report_workdir.table()
  pairs.write_csv(dataclasses.replace(found, masks=np.full(len(found), name)), _table(workdir))
  with pytest.raises(UserError, match='set of masks'):
    inputs.load(workdir)


def test_a_baseline_is_put_beside_instead_of_one_of_an_earlier_comparison(ours, tmp_path):
  earlier = dataclasses.replace(ours.pairs, metrics={
      **ours.pairs.metrics, 'baseline': ours.pairs.metrics['MAT']})
  content = _match(ours._replace(pairs=earlier), report_workdir.make(tmp_path / 'theirs', seed=1))
  assert list(content.pairs.metrics) == ['proposed', 'baseline', 'mean colour']
  np.testing.assert_allclose(content.pairs.metrics['baseline']['ssim'],
                             report_workdir.table(1).metrics['MAT']['ssim'])
  assert list(content.mask_sets['small'].differences) == [
      'proposed - baseline', 'proposed - mean colour']
  assert list(content.mask_sets['small'].distances) == ['proposed', 'baseline', 'mean colour']


def test_pairs_that_both_have_are_compared_whatever_their_order(ours, tmp_path):
  workdir = report_workdir.make(tmp_path / 'theirs')
  found = report_workdir.table()
  order = np.random.default_rng(0).permutation(len(found))[:25]
  part = dataclasses.replace(found.where(order), image_index=found.image_index[order] + 100)
  pairs.write_csv(part, _table(workdir))
  content = _match(ours, workdir)
  assert len(content.pairs) == 25
  np.testing.assert_array_equal(content.their_image_index, content.pairs.image_index + 100)
  difference = content.mask_sets['large'].differences['proposed - baseline']['ssim']
  assert difference.mean == difference.low == difference.high == 0


def test_a_baseline_of_other_images_is_refused(ours, tmp_path):
  workdir = report_workdir.make(tmp_path / 'theirs', prefix='photo')
  found = report_workdir.table(0, 'photo')
  pairs.write_csv(found.where(found.image_index > 0), _table(workdir))
  with pytest.raises(UserError, match='no pair of image and mask'):
    _match(ours, workdir)


def test_a_baseline_with_other_settings_is_refused(ours, tmp_path):
  workdir = report_workdir.make(tmp_path / 'theirs', settings=report_workdir.SETTINGS | {'seed': 3})
  with pytest.raises(UserError, match='seed 3, this one 0'):
    _match(ours, workdir)


def test_a_baseline_with_other_masks_is_refused(ours, tmp_path):
  workdir = report_workdir.make(tmp_path / 'theirs')
  found = report_workdir.table()
  pairs.write_csv(dataclasses.replace(found, hole_ratio=found.hole_ratio / 2), _table(workdir))
  with pytest.raises(UserError, match='different masks'):
    _match(ours, workdir)
