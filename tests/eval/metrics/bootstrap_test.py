"""Means over images, bootstrap intervals, paired differences."""

import math

import numpy as np
import pytest

from eval.metrics import bootstrap


def test_mean_and_interval():
  values = np.random.default_rng(0).normal(5.0, 2.0, 400)
  summary = bootstrap.mean_and_interval(values)
  assert summary.n == 400 and summary.infinite == summary.undefined == 0
  assert summary.mean == pytest.approx(values.mean())
  # The normal approximation of the same interval.
  half = 1.96 * values.std() / math.sqrt(400)
  assert summary.low == pytest.approx(values.mean() - half, abs=0.1 * half)
  assert summary.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_is_a_function_of_the_seed():
  values = np.arange(20.0)
  first = bootstrap.mean_and_interval(values, seed=3)
  assert first == bootstrap.mean_and_interval(values, seed=3)
  assert first != bootstrap.mean_and_interval(values, seed=4)


def test_interval_counts_what_it_leaves_out():
  summary = bootstrap.mean_and_interval(np.array([1.0, np.inf, 3.0, np.nan, np.nan]))
  assert (summary.mean, summary.n, summary.infinite, summary.undefined) == (2.0, 2, 1, 2)
  empty = bootstrap.mean_and_interval(np.array([np.inf, np.nan]))
  assert (empty.n, empty.infinite, empty.undefined) == (0, 1, 1)
  assert all(math.isnan(value) for value in empty[:3])


def test_summarize_averages_the_masks_of_an_image_first():
  # Image 7 has three masks, and still counts as much as image 2 with one.
  summary = bootstrap.summarize(np.array([1.0, 2.0, 3.0, 10.0]), np.array([7, 7, 7, 2]))
  assert (summary.mean, summary.n) == (6.0, 2)
  assert (summary.low, summary.high) == (2.0, 10.0)


def test_summarize_counts_pairs_and_keeps_the_images_that_have_a_value():
  values = np.array([np.inf, 4.0, np.nan, np.nan, 6.0, np.inf])
  summary = bootstrap.summarize(values, np.array([0, 0, 1, 1, 2, 3]))
  assert (summary.mean, summary.n, summary.infinite, summary.undefined) == (5.0, 2, 2, 2)


def test_summarize_of_nothing():
  summary = bootstrap.summarize(np.array([]), np.array([], int))
  assert (summary.n, summary.infinite, summary.undefined) == (0, 0, 0)
  assert math.isnan(summary.mean)


def test_repeating_the_masks_does_not_narrow_the_interval():
  rng = np.random.default_rng(1)
  values, image = rng.normal(size=30), np.arange(30)
  assert (bootstrap.summarize(np.tile(values, 5), np.tile(image, 5))
          == pytest.approx(bootstrap.summarize(values, image)))


def test_paired_difference_is_narrower_than_the_spread_of_the_images():
  rng = np.random.default_rng(2)
  image = np.repeat(np.arange(100), 2)
  difficulty = rng.normal(20.0, 5.0, 100)[image]
  ours = difficulty + 0.5 + rng.normal(0, 0.1, 200)
  theirs = difficulty + rng.normal(0, 0.1, 200)
  difference = bootstrap.paired_difference(ours, theirs, image)
  assert difference.mean == pytest.approx((ours - theirs).mean())
  assert 0.4 < difference.low < difference.mean < difference.high < 0.6
  mean = bootstrap.summarize(ours, image)
  assert mean.high - mean.low > 10 * (difference.high - difference.low)


def test_paired_difference_changes_its_sign_with_the_order():
  rng = np.random.default_rng(3)
  a, b = rng.normal(size=(2, 40))
  image = np.arange(40)
  assert (bootstrap.paired_difference(a, b, image).mean
          == pytest.approx(-bootstrap.paired_difference(b, a, image).mean))


def test_paired_difference_leaves_out_what_either_lacks():
  ours = np.array([np.inf, np.inf, np.nan, 5.0, np.nan, 3.0])
  theirs = np.array([np.inf, 1.0, 1.0, np.nan, np.inf, 1.0])
  difference = bootstrap.paired_difference(ours, theirs, np.arange(6))
  # inf - inf is no undefined value but an infinite pair.
  assert difference == (2.0, 2.0, 2.0, 1, 3, 2)
