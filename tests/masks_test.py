"""The random masks: their distribution, their seeds and what they refuse."""

import json
import math
import pathlib

import numpy as np
import pytest

from input_pipeline import masks
from mat_jax.errors import UserError

STATISTICS = json.loads(
    (pathlib.Path(__file__).parent / 'golden' / 'mask_statistics.json').read_text())
SAMPLES = 1000
# Sampling errors, ours and the reference's, that a difference may reach: some 80
# correlated figures are compared per preset.
SIGMAS = 4


def boundary_length(mask):
  """Number of edges between kept and hole pixels, in sides of the image."""
  return (np.abs(np.diff(mask, axis=0)).sum() + np.abs(np.diff(mask, axis=1)).sum()) / len(mask)


@pytest.mark.parametrize('name', sorted(STATISTICS))
def test_distribution_is_the_published_one(name):
  expected = STATISTICS[name]
  resolution, preset = name.split('_')
  resolution = int(resolution)
  ratios, lengths, coverages = [], [], []
  for seed in range(SAMPLES):
    mask = masks.random_mask(seed, resolution, preset)[..., 0]
    blocks = 1 - mask.reshape(8, resolution // 8, 8, resolution // 8).mean((1, 3))
    ratios.append(blocks.mean())
    coverages.append(blocks)
    lengths.append(boundary_length(mask))
  # Standard error of a difference of two means, per unit of standard deviation.
  error = math.sqrt(1 / SAMPLES + 1 / expected['samples'])

  def assert_mean(values, reference):
    difference = np.abs(np.mean(values, axis=0) - reference)
    assert (difference < SIGMAS * error * np.std(values, axis=0)).all(), difference.max()

  assert_mean(ratios, expected['hole_ratio_mean'])
  assert_mean(coverages, expected['mean_coverage_8x8'])
  assert_mean(lengths, expected['mean_boundary_length_over_side'])
  for level, quantile in expected['hole_ratio_quantiles'].items():
    level = float(level)
    below = np.mean(np.array(ratios) < quantile)
    assert abs(below - level) < SIGMAS * error * math.sqrt(level * (1 - level)), level


@pytest.mark.parametrize('resolution', [8, 64, 200, 256, 384])
def test_values_and_shape(resolution):
  mask = masks.random_mask(3, resolution, 'large')
  assert mask.shape == (resolution, resolution, 1)
  assert mask.dtype == np.float32
  assert set(np.unique(mask)) == {0, 1}


def test_same_seed_same_mask():
  first, second, other = (masks.random_mask(seed, 128, 'large') for seed in (5, 5, 6))
  np.testing.assert_array_equal(first, second)
  assert (first != other).any()


@pytest.mark.parametrize('seed', [-1, 0, 2**63, 2**64 - 1, np.int64(-5), np.uint64(2**64 - 1)])
def test_any_integer_is_a_seed(seed):
  assert masks.random_mask(seed, 64, 'small').shape == (64, 64, 1)


@pytest.mark.parametrize('preset', masks.PRESETS)
def test_low_resolutions_keep_the_hole_ratio(preset):
  ratios = [1 - masks.random_mask(seed, 64, preset).mean() for seed in range(1500)]
  expected = STATISTICS[f'256_{preset}']
  # One more pixel in 64 at every edge weighs more than the sampling error.
  assert np.mean(ratios) == pytest.approx(expected['hole_ratio_mean'], abs=0.025)


def test_high_resolutions_keep_the_hole_ratio():
  ratios = [1 - masks.random_mask(seed, 1024, 'small').mean() for seed in range(300)]
  assert np.mean(ratios) == pytest.approx(STATISTICS['512_small']['hole_ratio_mean'], abs=0.035)


def test_hole_range_is_met():
  for seed in range(50):
    mask = masks.random_mask(seed, 128, 'large', hole_range=(0.3, 0.5))
    assert 0.3 < 1 - mask.mean() < 0.5


def test_full_range_has_neither_empty_nor_full_masks():
  ratios = [1 - masks.random_mask(seed, 16, 'small').mean() for seed in range(500)]
  assert 0 < min(ratios) and max(ratios) < 1


@pytest.mark.parametrize(
    ('resolution', 'preset', 'hole_range', 'message'),
    [
        (256, 'medium', (0, 1), "unknown mask preset 'medium'"),
        (4, 'large', (0, 1), 'too small'),
        (256, 'large', (0.5, 0.2), 'hole range'),
        (256, 'large', (0.1, 1.5), 'hole range'),
        (16, 'small', (0.9999, 1), 'widen the range'),
    ])
def test_wrong_arguments(resolution, preset, hole_range, message):
  with pytest.raises(UserError, match=message):
    masks.random_mask(0, resolution, preset, hole_range)
