import numpy as np
import pytest

from mat_jax.inference import variants
from mat_jax.inference.options import InpaintOptions


def test_seeds_follow_each_other_and_can_be_held():
  found = variants.variants_of(InpaintOptions(seed=7, num_samples=3))
  assert [(v.seed, v.latent_seed, v.keep_seed) for v in found] == [(7, 7, 7), (8, 8, 8), (9, 9, 9)]
  found = variants.variants_of(InpaintOptions(seeds=(4, 2), keep_seed=1))
  assert [(v.seed, v.latent_seed, v.keep_seed) for v in found] == [(4, 4, 1), (2, 2, 1)]
  found = variants.variants_of(InpaintOptions(num_samples=2, latent_seed=5))
  assert [(v.latent_seed, v.keep_seed) for v in found] == [(5, 0), (5, 1)]


def test_the_way_between_two_keeps_the_keep_masks_of_the_first():
  found = variants.between(3, 8, 5)
  assert [v.share for v in found] == [0, 0.25, 0.5, 0.75, 1]
  assert {(v.latent_seed, v.towards, v.keep_seed) for v in found} == {(3, 8, 3)}
  with pytest.raises(ValueError, match='two ends'):
    variants.between(3, 8, 1)


def test_slerp_stays_on_the_sphere():
  rng = np.random.default_rng(0)
  a, b = (rng.normal(size=(5, 512)) for _ in range(2))
  a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
  share = np.linspace(0, 1, 5)
  found = variants.slerp(a, b, share)
  np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
  np.testing.assert_allclose(found[0], a[0], atol=1e-6)
  np.testing.assert_allclose(found[-1], b[-1], atol=1e-6)
  angles = np.arccos(np.sum(a * b, -1)), np.arccos(np.clip(np.sum(a * found, -1), -1, 1))
  np.testing.assert_allclose(angles[1], share * angles[0], atol=1e-3)
  np.testing.assert_allclose(variants.slerp(a, a, share), a, atol=1e-6)


def test_the_medoid_is_the_one_between_the_others():
  pictures = [np.full((4, 4, 3), value, np.uint8) for value in (0, 200, 90, 110)]
  assert variants.medoid(pictures, variants.mean_difference) == 2
  assert variants.medoid(pictures[:1], variants.mean_difference) == 0


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_disagreement_is_the_standard_deviation(dtype):
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, np.iinfo(dtype).max, (5, 6, 7, 3), endpoint=True).astype(dtype)
  pictures[:, :2] = pictures[0, :2]  # kept
  expected = (pictures / np.iinfo(dtype).max).std(axis=0).mean(-1)
  found = variants.disagreement(list(pictures))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert not found[:2].any()
