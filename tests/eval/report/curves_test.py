import copy
import dataclasses

import numpy as np
import pytest

from eval.report import curves, inputs
from tests.support import report_workdir


@pytest.fixture(scope='module')
def evaluation(tmp_path_factory):
  workdir = report_workdir.make(tmp_path_factory.mktemp('curves') / 'run', kimg=(10.0, 20.0))
  report_workdir.write_stats(workdir)
  return inputs.load(workdir)


def _labels(lines) -> list[str]:
  return [line.label for line in lines]


def test_a_curve_for_every_system_and_set_of_masks(evaluation):
  lines = curves.curves(evaluation, None)
  assert _labels(lines) == ['MAT, large', 'MAT, small', 'mean colour, large', 'mean colour, small',
                            'MAT, validation images']
  summary = evaluation.record.mask_sets['large'].metrics['MAT']['ssim']
  assert lines[0].points['ssim'] == [(kimg, summary.mean, summary.low, summary.high)
                                     for kimg in (10.0, 20.0)]
  assert 'p_ids' not in lines[0].points  # it could not be measured
  assert [point[:2] for point in lines[-1].points['psnr']] == [(2.0, 17.0), (3.0, 18.0)]


def test_a_baseline_is_a_level_to_compare_with(evaluation):
  once = evaluation._replace(history=evaluation.history[:1], validation=[])
  lines = curves.curves(evaluation, once)
  assert _labels(lines) == ['proposed, large', 'proposed, small', 'mean colour, large',
                            'mean colour, small', 'baseline, large', 'baseline, small',
                            'proposed, validation images']
  assert len({line.colour for line in lines}) == 4
  axes = curves.draw(lines).axes[0]
  level = once.record.mask_sets['large'].metrics['MAT']['psnr'].mean
  assert any(line.get_ydata() == pytest.approx([level, level]) and
             line.get_xdata() == pytest.approx([0, 1]) for line in axes.lines)


def test_a_classical_method_is_a_level(evaluation):
  evaluation = copy.deepcopy(evaluation)
  for one in evaluation.history:
    for group in one.mask_sets.values():
      group.metrics['telea'] = {name: summary._replace(mean=summary.mean + 1)
                                for name, summary in group.metrics['MAT'].items()}
  metrics = dict(evaluation.pairs.metrics) | {'telea': evaluation.pairs.metrics['MAT']}
  theirs = evaluation._replace(history=evaluation.history[:1], validation=[])
  lines = curves.curves(evaluation._replace(pairs=dataclasses.replace(
      evaluation.pairs, metrics=metrics)), theirs)
  assert _labels(lines)[4:8] == ['baseline, large', 'baseline, small', 'telea, large',
                                 'telea, small']
  level = evaluation.record.mask_sets['large'].metrics['MAT']['psnr'].mean + 1
  drawn = curves.draw([lines[0], lines[6]]).axes[0].lines
  assert [line.get_ydata() for line in drawn][1] == pytest.approx([level, level])
  assert drawn[1].get_xdata() == pytest.approx([0, 1])


def test_a_panel_for_every_metric_of_a_single_evaluation(evaluation):
  once = evaluation._replace(history=evaluation.history[:1], validation=[])
  figure = curves.draw(curves.curves(once, None))
  assert [axes.get_title(loc='left') for axes in figure.axes] == [
      'PSNR, dB ↑', 'SSIM ↑', 'LPIPS alex ↓', 'PSNR hole, dB ↑', 'KID ↓', 'FID ↓',
      'P-IDS VGG16 ↑']
  assert all(axes.get_xticks() == [10.0] for axes in figure.axes)


def test_axes_of_values_far_apart_are_logarithmic():
  def scale(*values: float) -> str:
    points = [(float(i), value, np.nan, np.nan) for i, value in enumerate(values)]
    return curves.draw([curves.Curve('a', 'b', '-', {'fid': points})]).axes[
        0].get_yscale()

  assert scale(10, 100) == 'log'
  assert scale(10, 20) == scale(-1, 100) == scale(0, 100) == 'linear'


def test_labels_are_no_formulas(evaluation):
  line = curves.curves(evaluation, None)[0]._replace(label=r'$\frac{1}$')
  figure = curves.draw([line])
  figure.draw_without_rendering()  # raises for a formula that does not parse
  assert len(figure.legends[0].get_texts()) == 1


def test_an_evaluation_that_is_of_no_training_has_no_curves(evaluation):
  record = dataclasses.replace(evaluation.record, kimg=None, step=None)
  assert curves.curves(evaluation._replace(record=record, history=[], validation=[]),
                              None) == []
