import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.reference import published_phases
from configs import tiny
from convert import feature_nets
from convert.feature_nets import load_lpips
from eval.metrics import lpips_distance
from mat_jax import Discriminator, Generator
from mat_jax.nn import model_config
from mat_jax.training import start
from mat_jax.training.step import objectives, random_inputs, settings, train_state
from tests.support import reference


@pytest.fixture(scope='module')
def penalty():
  """The gradient of R1 of a small model that is augmented and has two frozen blocks."""
  config = tiny.get_config()
  config.model.resolution = 32
  config.train.batch_size, config.train.freeze_d_blocks = 4, 2
  config.augment.pipeline = 'bgc'
  options = settings.training_from_config(config)

  def loss(params, batch, key, probability, dtype='float32'):
    config.model.dtype = dtype
    networks = objectives.Networks(model_config.generator_from_config(config.model, 'compact'),
                                   model_config.discriminator_from_config(config.model, 'compact'))
    transforms = random_inputs.sample_transforms(key, 32, probability, options)
    return objectives.r1_loss(
        params, probability=probability, batch=batch, transforms=transforms, networks=networks,
        settings=options)

  rng = np.random.default_rng(0)
  batch = {'image': rng.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32),
           'mask': (rng.uniform(size=(4, 32, 32, 1)) > 0.5).astype(np.float32)}
  discriminator = model_config.discriminator_from_config(config.model, 'compact')
  variables = reference.random_variables(
      discriminator, batch['image'], batch['mask'], batch['image'])
  return loss, (variables['params'], batch, jax.random.key(0), jnp.float32(0.7))


def test_r1_goes_through_the_augmentation_and_past_frozen_blocks(penalty):
  loss, arguments = penalty
  gradients, metrics = jax.jit(jax.grad(loss, has_aux=True))(*arguments)
  assert metrics['loss/r1'] > 0 and metrics['loss/r1_stage1'] > 0
  for branch in ('dis', 'dis_stage1'):
    frozen = {name for name, tree in gradients[branch].items()
              if not any(np.any(leaf) for leaf in jax.tree.leaves(tree))}
    assert frozen == {'from_rgb', 'block_32', 'block_16'}


def test_r1_of_a_bfloat16_network_is_computed_in_float32(penalty):
  loss, arguments = penalty
  program = str(jax.make_jaxpr(
      lambda *values: jax.grad(loss, has_aux=True)(*values, dtype='bfloat16'))(*arguments))
  assert 'f32[' in program and 'bf16[' not in program


@pytest.fixture(scope='module')
def optional_losses():
  """Gmain and Dmain of a small model with LPIPS and the discriminator on features."""
  config = tiny.get_config()
  config.train.update(batch_size=4, lpips_weight=2.0, projected_weight=3.0, l1_weight=0.0,
                      adversarial_stage1_weight=0.5, feature_downsample=2)
  config.augment.pipeline = 'bgc'
  pretrained = feature_nets.for_training(config.train)
  networks, features = start.make_networks(config, pretrained), pretrained.params
  options = settings.training_from_config(config)
  state = jax.jit(lambda key: train_state.create(
      key, networks.generator, networks.discriminator, options, networks.projected))(
          jax.random.key(0))
  rng = np.random.default_rng(0)
  batch = {'image': rng.uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32),
           'mask': (rng.uniform(size=(4, 64, 64, 1)) > 0.5).astype(np.float32)}
  inputs = random_inputs.sample(jax.random.key(1), networks.generator, state.g_buffers, 0.0, options)

  @jax.jit
  def run(state, features):
    shared = {'g_buffers': state.g_buffers, 'features': features,
              'probability': jnp.float32(0.0), 'batch': batch, 'random_inputs': inputs,
              'networks': networks, 'settings': options}
    found = objectives.generator_loss(
        state.g_params, d_params=state.d_params, **shared)
    gradients, metrics = jax.grad(objectives.discriminator_loss, has_aux=True)(
        state.d_params, g_params=state.g_params, lecam_averages=state.lecam, **shared)
    image, _ = objectives.generate(
        networks, state.g_params, state.g_buffers, batch, inputs, options)
    return image, *found, gradients, metrics

  return state, features, batch, run(state, features)


def test_lpips_in_training_is_that_of_the_evaluation_at_half_the_size(optional_losses):
  _, _, batch, (image, _, metrics, *_) = optional_losses
  half = [np.asarray(x).reshape(4, 32, 2, 32, 2, 3).mean((2, 4)) for x in (image, batch['image'])]
  expected = np.mean(lpips_distance.lpips_distance(load_lpips('vgg'), *half, 'vgg'))
  np.testing.assert_allclose(metrics['loss/lpips'], expected, rtol=1e-4)


def test_optional_losses_are_weighted(optional_losses):
  *_, (_, loss, metrics, _, _) = optional_losses
  np.testing.assert_allclose(
      loss, metrics['loss/g'] + 0.5 * metrics['loss/g_stage1'] + 2 * metrics['loss/lpips']
      + 3 * metrics['loss/g_projected'], rtol=1e-5)


def test_the_discriminator_on_features_learns_beside_the_other(optional_losses):
  state, *_, (*_, gradients, metrics) = optional_losses
  assert set(gradients) == {'dis', 'dis_stage1', 'projected'}
  for name, tree in gradients.items():
    assert any(np.any(leaf) for leaf in jax.tree.leaves(tree)), name
  assert 0 < metrics['loss/d_projected'] < 4
  assert {'loss/lpips', 'loss/g_projected', 'loss/d_projected'} <= set(state.totals)


# At full size against the published implementation.


@pytest.mark.slow
@pytest.mark.parametrize('name', ['Gmain', 'Dmain', 'Dreg'])
def test_a_phase_at_full_size_matches_the_reference(name):
  phase = published_phases.PHASES[name]
  networks = objectives.Networks(Generator(), Discriminator(), published_phases.FEATURE_NETWORK)
  results = jax.jit(phase.function(networks))(*phase.arguments())
  errors = phase.errors(results)
  for parameter, error in errors.norms.items():
    assert error <= phase.bound(parameter), parameter
    assert errors.dots[parameter] <= 10 * phase.bound(parameter), parameter
  assert errors.vanishing < 1e-9
  assert max(errors.losses.values()) <= 1e-4
  if name == 'Gmain':
    assert published_phases.style_average_error(results[2]) <= 1e-6
