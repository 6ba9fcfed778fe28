import io

import numpy as np
from PIL import Image
import pytest

from eval.report import matrix, page


def _texts(figure) -> list[str]:
  return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_rank_correlations_of_finite_pairs():
  x = np.arange(10.0)
  found = matrix.matrix({
      'psnr': x, 'ssim': np.exp(x), 'l1': -(x**3), 'psnr_hole': np.where(x == 4, np.inf, x),
      'lpips_alex': np.where(x == 5, np.nan, x), 'ssim_hole': np.full(10, np.nan)})
  assert found.n == 8 and found.left_out == 2 and found.undefined == ['ssim_hole']
  assert found.correlations['psnr', 'ssim'] == pytest.approx(1)
  assert found.correlations['psnr', 'l1'] == pytest.approx(-1)
  assert ('l1', 'psnr') not in found.correlations


def test_a_constant_has_no_correlation():
  found = matrix.matrix({'psnr': np.arange(5.0), 'ssim': np.ones(5)})
  assert found.correlations == {('psnr', 'ssim'): None}
  figure = matrix.draw(found)
  assert _texts(figure) == ['undefined']
  with Image.open(io.BytesIO(page.figure_png(figure))) as image:
    assert image.width == image.height > 500


def test_the_figure_says_the_correlations():
  rng = np.random.default_rng(0)
  x = rng.normal(size=matrix.MAX_POINTS + 10)
  found = matrix.matrix({'psnr': x, 'l1': -x, 'ssim': rng.normal(size=len(x))})
  assert _texts(matrix.draw(found))[0] == '−1.00'
  assert len(_texts(matrix.draw(found))) == 3


@pytest.mark.parametrize('metrics', [{}, {'psnr': np.full(3, np.inf)}])
def test_nothing_finite(metrics):
  found = matrix.matrix(metrics)
  assert found.n == 0 and found.correlations == {}


def test_curves_follow_straight_lines_and_bends():
  x = np.random.default_rng(0).uniform(size=300)
  at, line = matrix.smooth(x, 3 * x - 1)
  np.testing.assert_allclose(line, 3 * at - 1, atol=1e-12)
  assert (at[0], at[-1]) == (x.min(), x.max())
  at, bend = matrix.smooth(x, np.abs(x - 0.5))
  np.testing.assert_allclose(bend[[0, -1]], 0.5, atol=0.03)
  assert bend[30] < 0.2


def test_curves_of_few_and_equal_values():
  assert matrix.smooth(np.ones(4), np.arange(4.0)) is None
  assert matrix.smooth(np.array([]), np.array([])) is None
  for x in (np.array([0.0, 1.0]), np.array([0.0, 0.0, 0.0, 0.0, 1.0])):
    _, curve = matrix.smooth(x, x)
    assert np.isfinite(curve).all()
    np.testing.assert_allclose(curve[[0, -1]], [0, 1], atol=1e-6)
