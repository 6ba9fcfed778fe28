"""Distances between sets of features against the reference, SciPy and plain loops."""

import functools

import ml_dtypes
import numpy as np
import pytest
import scipy.linalg
from sklearn import svm

from benchmarks.reference import fill
from eval.metrics import distribution
from mat_jax.errors import UserError
from tests.support import reference


def golden_features(n):
  real = fill.normal(f'metrics/real/{n}', (n, 64))
  return real, 0.9 * fill.normal(f'metrics/fake/{n}', (n, 64)) + 0.15


def features(n, d, seed, scale=1.0, mean=0.0):
  rng = np.random.default_rng(seed)
  spread = scale * np.arange(1, d + 1)**-0.5
  return rng.standard_normal((n, d)) * spread + mean


@pytest.mark.parametrize('n', [300, 3000])
def test_agrees_with_the_reference(n):
  golden, (real, fake) = reference.load('metrics.json')[f'features_{n}'], golden_features(n)
  frechet = distribution.frechet_distance(real, fake, ddof=0)
  assert frechet == pytest.approx(golden['fid'], rel=1e-9)
  kernel = distribution.kernel_distance(real, fake)
  assert kernel == pytest.approx(golden['kid_full_unbiased'], rel=1e-9)
  assert distribution.ids(real, fake) == (golden['p_ids'], golden['u_ids'])


@pytest.mark.filterwarnings('ignore::scipy.linalg.LinAlgWarning')
@pytest.mark.parametrize('n,m,exact', [
    (200, 300, 1e-10), (12, 200, 1e-6), (200, 12, 1e-6), (10, 15, 1e-6), (31, 30, 1e-6),
    (2, 2, 1e-6)])
def test_frechet_distance_is_that_of_scipy(n, m, exact):
  real, fake = features(n, 30, 1), features(m, 30, 2, 0.8, 0.1)
  first, second = (np.cov(x, rowvar=False) for x in (real, fake))
  shift = real.mean(0) - fake.mean(0)
  root = scipy.linalg.sqrtm(first @ second).real
  expected = shift @ shift + np.trace(first + second - 2 * root)
  assert distribution.frechet_distance(real, fake) == pytest.approx(expected, rel=exact)


@pytest.mark.parametrize('n', [5, 100])
def test_frechet_distance_of_equal_sets_is_zero(n):
  x = features(n, 40, 3, scale=100)
  assert 0 <= distribution.frechet_distance(x, x) < 1e-9


def test_frechet_distance_of_shifted_sets_is_the_shift():
  x = features(60, 8, 4)
  assert distribution.frechet_distance(x, x + 0.5) == pytest.approx(8 * 0.25)


def test_constant_features():
  varied, ones = features(50, 6, 5), np.ones((9, 6))
  assert distribution.frechet_distance(ones, 0 * ones) == pytest.approx(6)
  assert distribution.frechet_distance(ones[:3], 0 * ones) == pytest.approx(6)
  expected = np.sum((varied.mean(0) - 1)**2) + np.trace(np.cov(varied, rowvar=False))
  assert distribution.frechet_distance(varied, ones) == pytest.approx(expected)
  assert distribution.kernel_distance(ones, 0 * ones) == pytest.approx(2.0**3 + 1 - 2)
  assert distribution.ids(ones, 0 * ones) == (0, 0)


def test_dead_dimensions_change_nothing():
  real, fake = features(80, 10, 6), features(90, 10, 7, 0.7)
  expected = distribution.frechet_distance(real, fake)
  wide = [np.concatenate([x, np.full((len(x), 5), 3.0)], 1) for x in (real, fake)]
  assert distribution.frechet_distance(*wide) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize('n', [6, 40])
def test_any_float_type(dtype, n):
  real, fake = features(n, 8, 1).astype(dtype), features(n, 8, 2).astype(dtype)
  exact = real.astype(np.float64), fake.astype(np.float64)
  for function in (distribution.frechet_distance, distribution.kernel_distance,
                   distribution.cmmd, distribution.ids):
    np.testing.assert_allclose(function(real, fake), function(*exact), rtol=1e-10)


def test_kernel_distance_is_that_of_plain_loops():
  real, fake = features(7, 5, 1), features(4, 5, 2, mean=0.3)

  def mean(x, y):
    values = [(a @ b / 5 + 1)**3 for i, a in enumerate(x) for j, b in enumerate(y)
              if x is not y or i != j]
    return np.mean(values)

  expected = mean(real, real) + mean(fake, fake) - 2 * mean(real, fake)
  assert distribution.kernel_distance(real, fake) == pytest.approx(expected)


@pytest.mark.parametrize('same', [True, False])
def test_weighted_sums_of_a_kernel_are_those_of_its_matrix(same):
  x, u = features(2100, 3, 1), features(2100, 2, 2)  # more rows than are multiplied at a time
  y, v = (x, u) if same else (features(2500, 3, 3), features(2500, 2, 4))
  expected = np.einsum('ib,ib->b', u, np.exp(x @ y.T) @ v)
  np.testing.assert_allclose(distribution.kernel_forms(np.exp, x, y, u, v), expected, rtol=1e-9)


def test_subsets_surround_the_full_kernel_distance():
  real, fake = features(300, 8, 1), features(400, 8, 2, mean=0.3)
  full = distribution.kernel_distance(real, fake)
  mean, deviation = distribution.kernel_distance_subsets(real, fake, 30, 100, seed=1)
  assert 0 < deviation < full
  assert abs(mean - full) < 3 * deviation / np.sqrt(30)
  assert distribution.kernel_distance_subsets(real, fake, 30, 100, seed=1) == (mean, deviation)
  assert distribution.kernel_distance_subsets(real, fake, 30, 100, seed=2) != (mean, deviation)


def test_subsets_are_at_most_the_set():
  real, fake = features(30, 8, 1), features(30, 8, 2)
  mean, deviation = distribution.kernel_distance_subsets(real, fake, 3, 1000)
  assert mean == pytest.approx(distribution.kernel_distance(real, fake))
  assert deviation == pytest.approx(0, abs=1e-12)


def test_cmmd_is_that_of_plain_loops_and_blind_to_norms():
  real, fake = features(6, 5, 1, mean=1), features(9, 5, 2)
  unit = [[x / np.sqrt(x @ x) for x in group] for group in (real, fake)]

  def mean(x, y):
    return np.mean([np.exp(-(a - b) @ (a - b) / (2 * 10**2)) for a in x for b in y])

  expected = 1000 * (mean(unit[0], unit[0]) + mean(unit[1], unit[1]) - 2 * mean(*unit))
  assert distribution.cmmd(real, fake) == pytest.approx(expected, rel=1e-9)
  assert distribution.cmmd(7 * real, fake) == pytest.approx(expected, rel=1e-9)
  assert distribution.cmmd(real, real) == pytest.approx(0, abs=1e-9)


def test_ids_of_ties_and_of_separable_sets():
  x = features(40, 5, 1)
  assert distribution.ids(x, x) == (0, 0.5)
  assert distribution.ids(x, x + 100) == (0, 0)
  # Many dimensions separate what are draws of one distribution.
  assert distribution.ids(features(40, 500, 1), features(40, 500, 2)) == (0, 0)


def test_ids_says_when_the_svm_has_not_converged(monkeypatch, caplog):
  real, fake = golden_features(300)
  assert distribution.svm_scores(real, fake).converged and not caplog.records
  monkeypatch.setattr(svm, 'LinearSVC', functools.partial(svm.LinearSVC, max_iter=1))
  assert not distribution.svm_scores(real, fake).converged
  assert 'stopped after 1 iterations' in caplog.text


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('function', [
    distribution.frechet_distance, distribution.kernel_distance,
    distribution.kernel_distance_subsets, distribution.cmmd, distribution.ids])
def test_what_cannot_be_compared_is_named(function):
  x = features(20, 4, 1)
  bad = x.copy()
  bad[3, 1], bad[[7, 8], 2] = np.nan, np.inf
  with pytest.raises(UserError, match=r'3 of 20 rows of the fake features .* \(rows 3, 7, 8\)'):
    function(x, bad)
  with pytest.raises(UserError, match=r'20 of 20 rows of the real .* \(rows 0, 1, 2, 3, 4, ...\)'):
    function(np.full_like(x, np.nan), x)
  with pytest.raises(UserError, match='1 of 20 rows'):
    function(np.where(np.arange(20)[:, None] == 4, 1e200, x), x)
  with pytest.raises(UserError, match='real features have 4 dimensions and the fake ones 3'):
    function(x, x[:, :3])
  with pytest.raises(UserError, match='at least 2 real images, found 1'):
    function(x[:1], x[:1])
  with pytest.raises(UserError, match=r'fake features have to be \[images, features\].* \[20\]'):
    function(x, x[:, 0])


def test_ids_needs_pairs():
  with pytest.raises(UserError, match='found 20 real and 19 fake'):
    distribution.ids(features(20, 4, 1), features(19, 4, 1))


def test_cmmd_needs_directions():
  x = features(5, 4, 1)
  with pytest.raises(UserError, match='1 of 5 rows of the features are 0'):
    distribution.cmmd(x, x * (np.arange(5)[:, None] > 0))
