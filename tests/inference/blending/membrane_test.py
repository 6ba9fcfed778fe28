import numpy as np
import pytest

from mat_jax.inference.blending.membrane import membrane


def _square(size=96, margin=8):
  """A square hole, and a ring of two pixels around it."""
  hole, grown = np.zeros((size, size), bool), np.zeros((size, size), bool)
  hole[margin:-margin, margin:-margin] = True
  grown[margin - 2:-margin + 2, margin - 2:-margin + 2] = True
  return grown & ~hole, hole


def _disks(size=128):
  """Round holes, one of them cut by the edge of the array, one with an island of ring."""
  y, x = np.mgrid[:size, :size]
  distances = [np.hypot(y - a, x - b) - r for a, b, r in ((40, 45, 30), (100, 110, 35))]
  island = np.hypot(y - 40, x - 40) < 4
  hole = (np.min(distances, axis=0) < 0) & ~island
  return ((np.min(distances, axis=0) < 3) & ~hole) | island, hole


def _coordinates(hole):
  y, x = np.indices(hole.shape) / len(hole)
  return y[..., None], x[..., None]


@pytest.mark.parametrize('shape', [_square, _disks])
def test_a_constant_stays_constant(shape):
  ring, hole = shape()
  result = membrane(np.full((*hole.shape, 2), [3.0, -1.0]), ring, hole)
  assert result.dtype == np.float32
  np.testing.assert_allclose(result[ring | hole], np.broadcast_to([3, -1], (
      np.count_nonzero(ring | hole), 2)), rtol=1e-6)
  assert not result[~(ring | hole)].any()


def test_polynomials_that_solve_the_equation_are_found():
  ring, hole = _square()
  y, x = _coordinates(hole)
  exact = np.concatenate([2 * x - y + 1, x**2 - y**2, x * y], axis=-1)
  result = membrane(np.where(ring[..., None], exact, np.nan), ring, hole)
  np.testing.assert_array_equal(result[ring], exact.astype(np.float32)[ring])
  np.testing.assert_allclose(result[hole][:, 0], exact[hole][:, 0], atol=1e-6)
  np.testing.assert_allclose(result[hole], exact[hole], atol=0.003)


@pytest.mark.parametrize('period', [8, 16, 50, 200])
def test_waves_fade_as_they_should(period):
  ring, hole = _square(200)
  y, x = np.indices(hole.shape)
  # Their second differences along the two axes cancel each other exactly.
  frequency = 2 * np.pi / period
  fading = np.arccosh(2 - np.cos(frequency))
  exact = (np.sin(frequency * x) * np.exp(-fading * y))[..., None]
  result = membrane(exact, ring, hole)
  spread = np.ptp(exact[ring])
  assert np.abs(result - exact)[hole].max() < 0.005 * spread
  assert np.sqrt(np.mean((result - exact)[hole] ** 2)) < 0.001 * spread


@pytest.mark.parametrize('shape', [_square, _disks])
def test_noise_meets_the_mean_of_four_neighbours_near_the_border(shape):
  ring, hole = shape()
  noise = np.random.default_rng(0).normal(size=(*hole.shape, 1))
  result = membrane(noise, ring, hole)[..., 0]
  inner = hole.copy()
  for axis in (0, 1):
    for step in (-1, 1):
      inner &= np.roll(hole | ring, step, axis)
  inner[[0, -1]] = inner[:, [0, -1]] = False
  mean = sum(np.roll(result, step, axis) for axis in (0, 1) for step in (-1, 1)) / 4
  assert np.count_nonzero(inner) > 3000
  assert np.abs(mean - result)[inner].max() < 0.02
  values = noise[ring]
  assert values.min() <= result[hole].min() and result[hole].max() <= values.max()


def test_nothing_pulls_at_edges_and_at_unknown_pixels():
  hole, ring = np.zeros((40, 30), bool), np.zeros((40, 30), bool)
  hole[5:-5, :20] = True  # touches the left edge, and unknown pixels at its right
  ring[4, :20] = ring[-5, :20] = True
  y = np.indices(hole.shape)[0][..., None] / 40
  result = membrane(np.where(ring[..., None], y, np.nan), ring, hole)
  np.testing.assert_allclose(result[hole], y[hole], atol=1e-6)


def test_parts_without_a_ring_stay_zero():
  ring, hole = _square()
  hole = np.pad(hole, ((0, 0), (0, 40)))
  hole[10:30, 110:125] = True
  result = membrane(np.ones((*hole.shape, 3)), np.pad(ring, ((0, 0), (0, 40))), hole)
  assert not result[:, 100:].any() and np.allclose(result[hole][:, 0].max(), 1)
  for empty in (np.zeros_like(hole), np.ones_like(hole)):
    assert not membrane(np.ones((*hole.shape, 3)), np.zeros_like(hole), empty).any()


@pytest.mark.parametrize('size', [(1, 9), (9, 1), (2, 5), (3, 3)])
def test_tiny_arrays(size):
  hole = np.ones(size, bool)
  hole.flat[0] = False
  result = membrane(np.full((*size, 1), 2.0), ~hole, hole)
  np.testing.assert_allclose(result, 2)
