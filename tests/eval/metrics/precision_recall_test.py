import numpy as np
import pytest

from eval.metrics import precision_recall
from mat_jax.errors import UserError


def _naive(points, centres):
  """Whether each point is in a ball, by the definition."""
  inside = []
  for point in points:
    hit = False
    for i, centre in enumerate(centres):
      others = np.delete(centres, i, 0)
      radius = np.sort(np.linalg.norm(others - centre, axis=1))[precision_recall.NEIGHBOURS - 1]
      hit |= np.linalg.norm(point - centre) <= radius
    inside.append(hit)
  return np.array(inside)


def test_against_the_definition():
  rng = np.random.default_rng(0)
  real, fake = rng.standard_normal((40, 5)), 0.6 * rng.standard_normal((55, 5)) + 0.5
  found = precision_recall.coverage(real, fake)
  np.testing.assert_array_equal(found.fake, _naive(fake, real))
  np.testing.assert_array_equal(found.real, _naive(real, fake))
  assert 0 < found.real.mean() < found.fake.mean() < 1, 'less varied than the real images'


def test_equal_sets_cover_each_other_and_far_ones_do_not():
  x = np.random.default_rng(1).standard_normal((3000, 4))
  found = precision_recall.coverage(x, x)
  assert found.fake.all() and found.real.all()
  found = precision_recall.coverage(x[:50], x[:50] + 100)
  assert not found.fake.any() and not found.real.any()


def test_three_images_have_no_third_neighbour():
  with pytest.raises(UserError, match='more than 3 results, found 3'):
    precision_recall.coverage(np.eye(5), np.eye(5)[:3])
