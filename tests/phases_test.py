import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import published_phases
from configs import demo
from mat_jax import Discriminator, Generator, settings
from mat_jax import draws as draws_lib
from mat_jax import phases as phases_lib
from tests import reference


@pytest.fixture(scope='module')
def penalty():
  """The gradient of R1 of a small model that is augmented and has two frozen blocks."""
  config = demo.get_config()
  config.train.batch_size, config.train.freeze_d_blocks = 4, 2
  config.augment.pipeline = 'bgc'
  options = settings.training_from_config(config)

  def loss(params, batch, key, probability, dtype='float32'):
    config.model.dtype = dtype
    networks = phases_lib.Networks(settings.generator_from_config(config.model, 'gpu'),
                                   settings.discriminator_from_config(config.model, 'gpu'))
    transforms = draws_lib.draw_transforms(key, 64, probability, options)
    return phases_lib.r1_loss(params, probability, batch, transforms, networks, options)

  rng = np.random.default_rng(0)
  batch = {'image': rng.uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32),
           'mask': (rng.uniform(size=(4, 64, 64, 1)) > 0.5).astype(np.float32)}
  discriminator = settings.discriminator_from_config(config.model, 'gpu')
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
    assert frozen == {'from_rgb', 'block_64', 'block_32'}


def test_r1_of_a_bfloat16_network_is_computed_in_float32(penalty):
  loss, arguments = penalty
  program = str(jax.make_jaxpr(
      lambda *values: jax.grad(loss, has_aux=True)(*values, dtype='bfloat16'))(*arguments))
  assert 'f32[' in program and 'bf16[' not in program


@pytest.mark.slow
@pytest.mark.parametrize('name', ['Gmain', 'Dmain', 'Dreg'])
def test_a_phase_at_full_size_matches_the_reference(name):
  phase = published_phases.PHASES[name]
  networks = phases_lib.Networks(Generator(), Discriminator(), published_phases.FEATURE_NETWORK)
  results = jax.jit(phase.function(networks))(*phase.arguments())
  errors = phase.errors(results)
  for parameter, error in errors.norms.items():
    assert error <= phase.bound(parameter), parameter
    assert errors.dots[parameter] <= 10 * phase.bound(parameter), parameter
  assert errors.vanishing < 1e-9
  assert max(errors.losses.values()) <= 1e-4
  if name == 'Gmain':
    assert published_phases.style_average_error(results[2]) <= 1e-6
