"""Distances with their intervals, ceilings and warnings."""

import re

import numpy as np
import pytest

from eval.metrics import distance_intervals, distances, distribution
from eval.metrics.names import SET_METRICS
from mat_jax.errors import UserError

NETWORKS = ('inception', 'vgg16', 'dinov2', 'clip')
# Few dimensions for SVMs that cannot separate everything.
FEW = 6


def draw(n, d, seed, mean=0.0, scale=1.0):
  return scale * np.random.default_rng(seed).standard_normal((n, d)) + mean


def test_metrics_have_their_names_and_order():
  real, fake, image = draw(20, FEW, 1), draw(20, FEW, 2), np.arange(20)
  found = [name for network in NETWORKS
           for name in distances.measure(real, fake, image, network)]
  assert found == list(SET_METRICS)


def test_values_are_those_of_the_estimators():
  real, image = draw(50, FEW, 1), np.random.default_rng(0).permutation(np.repeat(np.arange(50), 3))
  fake = 0.5 * real[image] + draw(150, FEW, 2, 0.3)
  found = distances.measure(real, fake, image, 'inception')
  assert found['kid'].value == pytest.approx(distribution.kernel_distance(real, fake))
  assert found['fid'].value == distribution.frechet_distance(real, fake)
  assert (found['p_ids'].value, found['u_ids'].value) == distribution.ids(real[image], fake)
  cmmd = distances.measure(real, fake, image, 'clip')['cmmd']
  assert cmmd.value == pytest.approx(distribution.cmmd(real, fake))
  for distance in [*found.values(), cmmd]:
    assert (distance.n_real, distance.n_fake, distance.dimension) == (50, 150, FEW)
    assert distance.low < distance.value < distance.high


def test_order_of_the_results_does_not_matter_and_the_seed_does():
  real, image = draw(30, FEW, 1), np.repeat(np.arange(30), 2)
  fake = draw(60, FEW, 2, 0.3)
  order = np.random.default_rng(0).permutation(60)
  first, second, third = (
      distances.measure(real, x, rows, 'vgg16', seed=seed)
      for x, rows, seed in ((fake, image, 0), (fake[order], image[order], 0), (fake, image, 1)))
  for name in ('kd_vgg16', 'fd_vgg16'):
    np.testing.assert_allclose(first[name][:3], second[name][:3])
  assert first['kd_vgg16'][1:3] != third['kd_vgg16'][1:3]
  assert first == distances.measure(real, fake, image, 'vgg16')


def polynomial_truth(mean, d):
  """Kernel distance of N(0, I) and N(mean, I): E of a cube of t, E t and E t^2 in closed form."""
  def moment(a, b):  # E (x.y / d + 1)^3 for x ~ N(a, I), y ~ N(b, I)
    rng = np.random.default_rng(5)
    # Given y, x.y is normal: only y is drawn.
    y = rng.standard_normal((400_000, d)) + b
    location, variance = y @ a / d + 1, np.sum(y**2, 1) / d**2
    return np.mean(location**3 + 3 * location * variance)

  zero = np.zeros(d)
  return moment(zero, zero) + moment(mean, mean) - 2 * moment(zero, mean)


@pytest.mark.parametrize('mean,masks', [(0.0, 1), (0.0, 2), (0.4, 1), (0.4, 2)])
def test_the_interval_of_the_kernel_distance_covers_the_truth(mean, masks):
  d, n, trials = 4, 60, 40
  truth = polynomial_truth(np.full(d, mean), d) if mean else 0.0
  image = np.repeat(np.arange(n), masks)
  covered = 0
  for trial in range(trials):
    estimate, _ = distance_intervals.kernel_estimate(
        draw(n, d, (trial, 0)), draw(n * masks, d, (trial, 1), mean), image,
        distribution.polynomial_kernel(d), unbiased=True, seed=trial)
    covered += estimate.low <= truth <= estimate.high
  assert covered >= 0.85 * trials


def test_the_kernel_distance_says_what_dependent_results_do_to_it():
  # The results are other draws of the images' own distribution, near their own image.
  real, image = draw(40, 30, 1), np.repeat(np.arange(40), 3)
  fake = 0.9 * real[image] + np.sqrt(1 - 0.9**2) * draw(120, 30, 2)
  distance = distances.measure(real, fake, image, 'inception')['kid']
  estimate, apart = distance_intervals.kernel_estimate(
      real, fake, image, distribution.polynomial_kernel(30), unbiased=True)
  assert distance.value < 0 and abs(apart) < 0.2 * abs(distance.value)
  assert f'belong to one image: {apart:z.5f} without them' in distance.note
  assert 'Below 0' in distance.note
  # By plain loops.
  kernel = (np.concatenate([real, fake]) @ np.concatenate([real, fake]).T / 30 + 1)**3
  group = np.concatenate([np.arange(40), image])
  other = group[:, None] != group
  blocks = [(slice(0, 40), slice(0, 40), 1), (slice(40, None), slice(40, None), 1),
            (slice(0, 40), slice(40, None), -2)]
  expected = sum(sign * kernel[a, b][other[a, b]].mean() for a, b, sign in blocks)
  assert apart == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('n,d,mean', [(40, 100, 0.3), (60, 20, 0.3), (300, 20, 0.1)])
def test_the_deviation_of_the_frechet_distance_is_about_the_true_one(n, d, mean):
  image = np.arange(n)
  estimates = [distance_intervals.frechet_estimate(
      draw(n, d, (trial, 0)), draw(n, d, (trial, 1), mean), image) for trial in range(40)]
  true = np.std([estimate.value for estimate in estimates], ddof=1)
  claimed = np.mean([(estimate.high - estimate.value) / 1.96 for estimate in estimates])
  assert 0.8 * true < claimed < 2 * true
  assert all(0 <= estimate.low <= estimate.value for estimate in estimates)


def test_results_of_an_image_are_not_taken_for_independent():
  real, image = draw(60, FEW, 1), np.repeat(np.arange(60), 4)
  fake = draw(60, FEW, 2, 0.5)
  once, four = (distances.measure(real, fake[rows], rows, 'inception')
                for rows in (np.arange(60), image))
  for name in ('kid', 'fid'):
    width, repeated = (found[name].high - found[name].low for found in (once, four))
    assert repeated == pytest.approx(width, rel=0.2)
  hits = np.random.default_rng(0).random(60) < 0.3
  interval = distance_intervals.mean_interval(hits, np.arange(60))
  assert distance_intervals.mean_interval(hits[image], image) == pytest.approx(interval)
  assert interval[0] < hits.mean() < interval[1]


def test_the_frechet_distance_is_flagged_by_size():
  note = distances.measure(draw(20, 30, 1), draw(20, 30, 2), np.arange(20), 'inception')['fid'].note
  assert 'covariance of 20 images in 30 dimensions is singular' in note
  assert 'Biased upwards at 20 images' in note
  note = distances.measure(draw(40, 30, 1), draw(40, 30, 2), np.arange(40), 'inception')['fid'].note
  assert 'singular' not in note and 'Biased upwards at 40 images' in note


def test_the_kernel_distance_quotes_subsets_of_large_sets():
  kid = distances.measure(
      draw(2000, FEW, 1), draw(2000, FEW, 2, 0.5), np.arange(2000), 'inception')['kid']
  mean, deviation = map(float, re.search(
      r'Over 100 subsets of 1,000: mean (\S+), standard deviation (\S+)\.', kid.note).groups())
  assert mean == pytest.approx(kid.value, rel=0.1) and 0 < deviation < 0.2 * kid.value


def test_the_ceiling_is_real_against_real_at_the_same_number():
  real, others, image = draw(200, FEW, 1), draw(500, FEW, 2), np.repeat(np.arange(200), 2)
  ceiling = distances.ids_ceiling(real, image, others)
  assert ceiling.n == 400 and sorted(ceiling.pairs) == list(range(400))
  found = distances.measure(real, draw(400, FEW, 3, 0.5), image, 'inception', ceiling)
  for name in ('p_ids', 'u_ids'):
    assert found[name].value < found[name].ceiling == getattr(ceiling, name)
    assert (found[name].ceiling_n, found[name].at_ceiling_n) == (400, None)


def test_fewer_others_compare_at_their_number():
  real, image = draw(200, FEW, 1), np.repeat(np.arange(200), 2)
  fake = draw(400, FEW, 3, 0.5)
  ceiling = distances.ids_ceiling(real, image, draw(150, FEW, 2))
  assert ceiling.n == 150
  assert len(set(image[ceiling.pairs])) == 150  # as different images as can be
  found = distances.measure(real, fake, image, 'inception', ceiling)
  at = distribution.ids(real[image[ceiling.pairs]], fake[ceiling.pairs])
  assert (found['p_ids'].at_ceiling_n, found['u_ids'].at_ceiling_n) == at
  assert found['u_ids'].ceiling_n == 150


@pytest.mark.parametrize('others', [None, 99])
def test_without_enough_others_one_half_stands_against_the_other(others):
  real, image = draw(201, FEW, 1), np.arange(201)
  ceiling = distances.ids_ceiling(real, image, others and draw(others, FEW, 2))
  assert ceiling.n == 100
  assert 0.2 < ceiling.u_ids < 0.5
  assert ceiling[:3] == distances.ids_ceiling(real, image)[:3]


def test_more_pairs_than_images_take_turns():
  real, image = draw(50, FEW, 1), np.repeat(np.arange(50), 4)
  ceiling = distances.ids_ceiling(real, image, draw(120, FEW, 2))
  assert set(np.bincount(image[ceiling.pairs])) == {2, 3}


def test_separable_features_have_no_score():
  real, fake = draw(60, 300, 1), draw(60, 300, 2)
  for others in (None, draw(60, 300, 3)):
    ceiling = distances.ids_ceiling(real, np.arange(60), others)
    found = distances.measure(real, fake, np.arange(60), 'inception', ceiling)
    for name in ('p_ids', 'u_ids'):
      assert found[name][:3] == (None, None, None) and found[name].ceiling is None
      assert found[name].note.startswith(
          f'Not measurable at n = 60: real against real scores 0 at {ceiling.n} pairs')


@pytest.mark.parametrize('images,masks,is_measurable', [
    (66, 1, True), (33, 1, False), (33, 6, True), (11, 6, False), (11, 40, False)])
def test_different_images_count_and_not_their_masks(images, masks, is_measurable):
  d, image = 64, np.repeat(np.arange(images), masks)
  real, fake = draw(images, d, 1), draw(images * masks, d, 3, 0.1)
  ceiling = distances.ids_ceiling(real, image, draw(images * masks, d, 2))
  found = distances.measure(real, fake, image, 'inception', ceiling)['u_ids']
  assert (found.value is not None) == is_measurable == bool(ceiling.u_ids)
  if not is_measurable:
    assert 'it takes about 64 different images, or 32 with six masks each' in found.note


def test_a_score_of_near_copies_is_not_taken_for_quality():
  real = draw(60, 300, 1)
  fake = real + 0.01 * draw(60, 300, 2)
  found = distances.measure(real, fake, np.arange(60), 'inception')
  assert distribution.ids(real, fake).u_ids > 0
  assert found['u_ids'].value is None
  assert 'means only that results resemble their own images' in found['u_ids'].note


def test_a_score_above_the_number_of_features_stands_without_a_ceiling():
  real, fake = draw(60, 50, 1), draw(60, 50, 2)
  found = distances.measure(real, fake, np.arange(60), 'inception')
  assert found['u_ids'].value == distribution.ids(real, fake).u_ids > 0
  assert found['u_ids'].note.startswith('Without a ceiling: real against real scores 0 at 30')


def test_a_measured_zero_has_a_bound():
  real, image = draw(100, FEW, 1), np.repeat(np.arange(100), 2)
  found = distances.measure(real, draw(200, FEW, 2, 20.0), image, 'inception')
  for name in ('p_ids', 'u_ids'):
    assert found[name][:3] == (0.0, 0.0, 0.03) and found[name].ceiling > 0.2
    assert '0 of 200 pairs of 100 images: below 0.03' in found[name].note


def test_equal_sets_are_marked():
  real, image = draw(30, FEW, 1), np.repeat(np.arange(30), 2)
  found = distances.measure(real, real[image], image, 'inception')
  assert all('Every result has the features of its real image' in distance.note
             for distance in found.values())
  assert found['kid'].value < 0
  assert found['p_ids'].value is None and found['u_ids'].value is None
  assert 0 <= found['fid'].low <= found['fid'].value < 0.05
  same = distances.measure(real, real, np.arange(30), 'inception')
  assert same['fid'].value == pytest.approx(0, abs=1e-12)
  assert distances.measure(real, real, np.arange(30), 'clip')['cmmd'].value == pytest.approx(
      0, abs=1e-9)


@pytest.mark.parametrize('network', NETWORKS)
def test_constant_features_are_marked(network):
  real, ones, image = draw(30, FEW, 1), np.ones((30, FEW)), np.arange(30)
  for distance in distances.measure(real, ones, image, network).values():
    assert 'All results have the same features.' in distance.note
    assert distance.value is None or np.isfinite(distance[:3]).all()
  for distance in distances.measure(ones, real, image, network).values():
    assert 'All real images have the same features.' in distance.note
    assert distance.value is None or np.isfinite(distance[:3]).all()


@pytest.mark.parametrize('images', [2, 3])
def test_hardly_any_images_have_no_interval(images):
  real, image = draw(images, FEW, 1), np.repeat(np.arange(images), 2)
  found = distances.measure(real, draw(2 * images, FEW, 2), image, 'inception')
  for distance in found.values():
    assert distance.low is None and distance.high is None
    assert f'{images} images are too few for an interval.' in distance.note
  assert np.isfinite(found['kid'].value) and found['fid'].value > 0
  assert found['p_ids'].value is None
  assert f'{images} images are too few to set real against real' in found['p_ids'].note


def test_bad_sets_are_errors():
  real, fake, image = draw(20, FEW, 1), draw(20, FEW, 2), np.arange(20)
  with pytest.raises(UserError, match='at least 2 real images, found 1'):
    distances.measure(real[:1], fake, 0 * image, 'inception')
  with pytest.raises(UserError, match='and the other real ones 5; take both from one network'):
    distances.ids_ceiling(real, image, fake[:, 1:])
  fake[4] = np.nan
  with pytest.raises(UserError, match='1 of 20 rows of the fake features'):
    distances.measure(real, fake, image, 'inception')
  with pytest.raises(UserError, match='1 of 20 rows of the other real features'):
    distances.ids_ceiling(real, image, fake)
  with pytest.raises(ValueError, match='rows of 20 real images'):
    distances.measure(real, draw(20, FEW, 2), image + 1, 'inception')


def test_systems_share_real_images_and_bad_features_are_marked():
  rng = np.random.default_rng(0)
  real = {'vgg16': rng.normal(size=(40, 4)), 'clip': rng.normal(size=(40, 4))}
  image = np.repeat(np.arange(40), 2)
  good = {name: rng.normal(size=(80, 4)) for name in real}
  bad = {'vgg16': np.full((80, 4), np.nan), 'clip': good['clip']}
  found = distances.of_systems(real, {'good': good, 'bad': bad}, image, None)
  assert found['good']['fd_vgg16'] == distances.measure(
      real['vgg16'], good['vgg16'], image, 'vgg16')['fd_vgg16']
  for name in distances.metric_names('vgg16'):
    assert found['bad'][name].value is None and 'NaN' in found['bad'][name].note
  assert found['bad']['cmmd'] == found['good']['cmmd']
  assert list(found['good']) == [*distances.metric_names('vgg16'), 'cmmd']


def test_one_image_is_marked():
  real = {'vgg16': np.ones((1, 4))}
  found = distances.of_systems(real, {'x': {'vgg16': np.ones((2, 4))}}, np.zeros(2, int), None)
  assert all(distance.value is None for distance in found['x'].values())
  assert found['x']['kd_vgg16'].note == (
      'Not measurable: a distance between sets of images needs at least 2 real images, found 1.')
