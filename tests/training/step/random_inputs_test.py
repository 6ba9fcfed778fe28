import dataclasses

import jax
import numpy as np
import pytest

from configs import tiny
from mat_jax.nn import model_config
from mat_jax.training.step import settings
from mat_jax.training.step.random_inputs import sample, with_noise

BUFFERS = {'mapping': {'w_avg': np.zeros(512)},
           'synthesis': {'dec': {'block_16': {'conv1': {'noise_const': np.zeros((16, 16))}}}}}
_NOISE = ('synthesis', 'dec', 'block_16', 'conv1', 'noise_const')


@pytest.fixture(scope='module')
def options():
  config = tiny.get_config()
  config.augment.pipeline = 'gc'
  return model_config.generator_from_config(config.model), settings.training_from_config(config)


def _sample(key, generator, training, probability=0.5):
  return sample(key, generator, BUFFERS, np.float32(probability), training)


def test_every_array_has_the_batch_in_front(options):
  inputs = _sample(jax.random.key(0), *options)
  assert all(len(leaf) == 8 for leaf in jax.tree.leaves(inputs))
  assert inputs.keep_masks['first'].shape == (8, 8, 8, 12)
  assert inputs.keep_masks['second'].shape == (8, 16, 16, 32)
  assert inputs.noise[_NOISE].shape == (8, 16, 16)
  assert np.any(inputs.noise[_NOISE][0] != inputs.noise[_NOISE][1]), 'each image has its own'
  assert 0.45 < np.mean(inputs.keep_masks['second']) < 0.55
  assert abs(np.std(inputs.z) - 1) < 0.05


def test_style_mixing_cuts_between_the_first_and_the_last_style(options):
  generator, training = options

  def cutoffs(probability):
    changed = dataclasses.replace(training, style_mixing=probability)
    return np.asarray(jax.jit(jax.vmap(lambda key: _sample(key, generator, changed).cutoff))(
        jax.random.split(jax.random.key(0), 200)))

  cutoff = cutoffs(0.5)
  assert np.all(cutoff == cutoff[:, :1]), 'one for the batch'
  assert cutoff.min() == 1 and cutoff.max() == 6
  assert 0.4 < np.mean(cutoff < 6) < 0.6
  assert np.all(cutoffs(0.0) == 6)


def test_noise_takes_the_place_of_the_constant_one(options):
  generator, training = options
  inputs = _sample(jax.random.key(0), generator, training)
  buffers = with_noise(BUFFERS, inputs)
  np.testing.assert_array_equal(
      buffers['synthesis']['dec']['block_16']['conv1']['noise_const'], inputs.noise[_NOISE])
  assert buffers['mapping'] == BUFFERS['mapping']
  constant = dataclasses.replace(training, noise_mode='const')
  assert with_noise(BUFFERS, _sample(jax.random.key(0), generator, constant)) is BUFFERS


def test_transforms_only_with_a_pipeline(options):
  generator, training = options
  assert _sample(jax.random.key(0), generator, training).transforms is not None
  without = dataclasses.replace(training, augmentation=settings.Augmentation())
  assert _sample(jax.random.key(0), generator, without).transforms is None
