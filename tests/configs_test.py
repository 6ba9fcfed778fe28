"""Every file of `configs/`: what it reads, what it checks, and the shapes of its step."""

import dataclasses
import functools
import gc
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import configs
from configs import base
from convert import feature_nets
from eval.metrics import measuring
from input_pipeline import from_config
from mat_jax.nn import model_config
from mat_jax.runtime import sharding
from mat_jax.training import start, train
from mat_jax.training.loop import Schedule
from mat_jax.training.step import accumulators, gradients, train_state, train_step
from mat_jax.training.step import settings as settings_lib

_NAMES = sorted(path.stem for path in pathlib.Path(configs.__path__[0]).glob('*.py')
                if path.stem != '__init__')
_SIZE = (544, 520)  # a little more than the largest crop


def _config(name):
  return importlib.import_module(f'configs.{name}').get_config()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Pictures of `_SIZE`, one each for validation and test."""
  root = tmp_path_factory.mktemp('pictures')
  rng = np.random.default_rng(0)
  for i in range(10):
    picture = Image.fromarray(rng.integers(256, size=(6, 5, 3), dtype=np.uint8))
    picture.resize(_SIZE, Image.Resampling.BICUBIC).save(root / f'{i}.jpg')
  return str(root)


def _check_batch(batch, size, resolution):
  for name, channels in (('image', 3), ('mask', 1)):
    assert batch[name].shape == (size, resolution, resolution, channels)
    assert batch[name].dtype == np.float32
  assert np.ptp(batch['image']) > 0.5 and np.abs(batch['image']).max() <= 1
  assert set(np.unique(batch['mask'])) == {0, 1}


def test_the_files_are_found():
  assert {'base', 'demo', 'tiny', 'wikiart', 'places512'} <= set(_NAMES)


@pytest.mark.parametrize('name', _NAMES)
def test_fields(name):
  config = _config(name)
  assert set(config.to_dict()) == set(base.get_config().to_dict()), 'fields come from base'
  for part in ('model', 'data', 'train', 'optimizer', 'augment', 'eval', 'inpaint'):
    assert set(config[part].to_dict()) == set(base.get_config()[part].to_dict()), part
  assert str(config.model.resolution) in name or name in ('base', 'demo', 'ffhq512', 'portraits_small', 'tiny', 'wikiart')
  assert config.data_dir or name == 'base'
  assert config.is_fine_tuning == (name == 'wikiart'), 'who else ends early needs a start'


@pytest.mark.parametrize('name', _NAMES)
def test_data(name, folder):
  config = _config(name)
  config.data_dir = folder
  portraits, masks = from_config.open_training(config)
  stream = from_config.training_stream(config, portraits, masks, 0, 0, 1)
  _check_batch(next(stream), config.train.batch_size, config.model.resolution)
  for mask_set in from_config.mask_sets(config.eval):
    opened = from_config.open_evaluation(config, config.eval.split, mask_set)
    stream, _ = from_config.evaluation_stream(config, *opened, 0, 1)
    batch = next(stream)
    valid = {key: value[batch['valid']] for key, value in batch.items()}
    _check_batch(valid, np.count_nonzero(batch['valid']), config.model.resolution)
  samples = from_config.sample_batch(config, config.train.sample_images)
  _check_batch(samples, 1, config.model.resolution)


@pytest.fixture(scope='module')
def validation_metrics():
  """Names of the metrics of a validation, but for distances between sets of images."""
  models = measuring.Models(measuring.load_lpips('alex'), {})
  image, hole = np.zeros((1, 64, 64, 3), np.uint8), np.ones((1, 64, 64, 1), np.float32)
  found = jax.eval_shape(measuring.measure, models, image, {'MAT': image}, hole)
  return set(found['metrics']['MAT'])


@pytest.mark.parametrize('name', _NAMES)
def test_checks_before_training(name, validation_metrics):
  config = _config(name)
  train.check(config, sharding.make_mesh(jax.devices()[:1]))
  assert start.best_from_config(config.train).metric == f'validation/{config.train.best_metric}'
  assert config.train.best_metric in validation_metrics
  schedule = Schedule.from_config(config.train)
  assert 1 <= schedule.tick <= schedule.snapshot <= schedule.total
  assert schedule.ends_snapshot(schedule.total)
  measuring.load_lpips(config.eval.lpips)


@pytest.fixture(scope='module')
def traced():
  """The steps that were traced, as several files share one.

  Gradients have the shapes of their parameters: without backward passes, and without collecting
  garbage, a step of full size takes a third of the time to trace.
  """
  def like_gradients(loss, params, shared, examples, microbatches):
    assert microbatches == 1
    return params, loss(params, shared, examples)[1]

  gc.disable()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gradients, 'mean_gradients', like_gradients)
    yield {}
  gc.enable()


def _of_one_group(settings):
  """The same step of four images, whatever the batch: one trace serves batches of any size."""
  group = model_config.GROUP_SIZE
  return dataclasses.replace(settings, batch_size=group, microbatch=group)


def _shapes(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def _trace(networks, settings, features):
  """The shapes of a fresh state, and those of what the step makes of it."""
  create = functools.partial(
      train_state.create, generator=networks.generator, discriminator=networks.discriminator,
      settings=settings, projected=networks.projected)
  state = jax.eval_shape(create, jax.random.key(0))
  shape = settings.batch_size, networks.generator.resolution, networks.generator.resolution
  batch = {'image': jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
           'mask': jax.ShapeDtypeStruct((*shape, 1), jnp.float32)}
  step = train_step.make_train_step(gradients.Context(networks, settings))
  after, losses = jax.eval_shape(step, state, features, batch)
  return _shapes(state), _shapes(after), losses.shape


@pytest.mark.parametrize('name', _NAMES)
def test_step(name, traced):
  config = _config(name)
  features = feature_nets.for_training(config.train)
  networks = start.make_networks(config, features)
  key = networks, _of_one_group(settings_lib.training_from_config(config))
  if key not in traced:
    traced[key] = _trace(*key, features and features.params)
  before, after, losses = traced[key]
  assert after == before
  assert losses == (len(accumulators.LOSSES),)
  assert networks.generator.resolution == config.model.resolution
