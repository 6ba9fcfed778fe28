import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from convert import feature_nets, from_torch, names
from eval import lpips
from mat_jax import Discriminator, Generator, settings, start, train_state
from mat_jax import draws as draws_lib
from mat_jax import phases as phases_lib
from mat_jax.draws import Draws
from mat_jax.settings import Augmentation, Optimizer, Training
from tests import fill, reference

REFERENCE = Training(
    batch_size=2, microbatch=2, r1_gamma=10.0, r1_interval=16, pcp_ratio=0.1, l1_weight=0.0,
    lpips_weight=0.0, projected_weight=0.0, lecam_weight=0.0, style_mixing=0.0,
    truncation_psi=0.5, noise_mode='const', ema_kimg=10.0, ema_rampup=None, frozen_d_modules=(),
    optimizer=Optimizer(), augmentation=Augmentation())

# VGG19's convolutions, 0 for a pooling layer; torchvision counts ReLUs as well.
_VGG19 = (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4)


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


@pytest.fixture(scope='module')
def optional_losses():
  """Gmain and Dmain of a small model with LPIPS and the discriminator on features."""
  config = demo.get_config()
  config.train.update(batch_size=4, lpips_weight=2.0, projected_weight=3.0, l1_weight=0.0)
  config.augment.pipeline = 'bgc'
  networks, features = start.make_networks(config)
  options = settings.training_from_config(config)
  state = jax.jit(lambda key: train_state.create(
      key, networks.generator, networks.discriminator, options, networks.projected))(
          jax.random.key(0))
  rng = np.random.default_rng(0)
  batch = {'image': rng.uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32),
           'mask': (rng.uniform(size=(4, 64, 64, 1)) > 0.5).astype(np.float32)}
  draws = draws_lib.draw(jax.random.key(1), networks.generator, state.g_buffers, 0.0, options)

  @jax.jit
  def run(state, features):
    found = phases_lib.generator_loss(
        state.g_params, state.g_buffers, state.d_params, features, jnp.float32(0.0), batch, draws,
        networks, options)
    gradients, metrics = jax.grad(phases_lib.discriminator_loss, has_aux=True)(
        state.d_params, state.g_params, state.g_buffers, state.lecam, features, jnp.float32(0.0),
        batch, draws, networks, options)
    image, _ = phases_lib.generate(
        networks, state.g_params, state.g_buffers, batch, draws, options)
    return image, *found, gradients, metrics

  return state, features, batch, run(state, features)


def test_lpips_in_training_is_that_of_the_evaluation(optional_losses):
  _, _, batch, (image, _, metrics, *_) = optional_losses
  expected = np.mean(lpips.LPIPS('vgg')(np.clip(image, -1, 1), batch['image']))
  clipped = np.mean(np.abs(np.asarray(image)) > 1)
  assert clipped < 0.01
  np.testing.assert_allclose(metrics['loss/lpips'], expected, rtol=5e-3)


def test_optional_losses_are_weighted(optional_losses):
  *_, (_, loss, metrics, _, _) = optional_losses
  np.testing.assert_allclose(
      loss, metrics['loss/g'] + metrics['loss/g_stage1'] + 2 * metrics['loss/lpips']
      + 3 * metrics['loss/g_projected'], rtol=1e-5)


def test_the_discriminator_on_features_learns_beside_the_other(optional_losses):
  state, *_, (*_, gradients, metrics) = optional_losses
  assert set(gradients) == {'dis', 'dis_stage1', 'projected'}
  for name, tree in gradients.items():
    assert any(np.any(leaf) for leaf in jax.tree.leaves(tree)), name
  assert 0 < metrics['loss/d_projected'] < 4
  assert {'loss/lpips', 'loss/g_projected', 'loss/d_projected'} <= set(state.totals)


# The rest checks the phases at full size against the published implementation.


@pytest.fixture(scope='module')
def phases():
  """Networks, variables, features, batch and draws of the reference."""
  state_dict = reference.state_dict('generator')
  for name in state_dict:
    if name.endswith('toRGB.conv.weight'):
      state_dict[name] = state_dict[name] * np.float32(0.1)
  image, mask, z = fill.inputs('train256', 2, 256)
  keep_maps = {'first': fill.keep_map('train256', 'first', (2, 256, 180)),
               'second': fill.keep_map('train256', 'second', (2, 16, 16, 512))}
  return dict(
      networks=phases_lib.Networks(Generator(), Discriminator(), 'vgg19'),
      g=from_torch.generator_variables(state_dict),
      d=from_torch.discriminator_variables(reference.state_dict('discriminator'))['params'],
      features=feature_nets.vgg_params_from_state_dict(_vgg19_state_dict(), 'vgg19'),
      batch={'image': reference.nhwc(image), 'mask': reference.nhwc(mask)},
      draws=Draws(z, z, np.full(2, 10), keep_maps, noise={}))


def _vgg19_state_dict():
  values, index, inputs = {}, 0, 3
  for outputs in _VGG19:
    if outputs:
      for leaf, shape in (('weight', (outputs, inputs, 3, 3)), ('bias', (outputs,))):
        name = f'features.{index}.{leaf}'
        values[name] = fill.fill_feature_net(name, shape)
      inputs, index = outputs, index + 1
    index += 1
  return values


def _check(phase, gradients, name_of, metrics, losses, tolerance, ill_conditioned=()):
  golden = reference.load('train_step_256.json')
  flat = flax.traverse_util.flatten_dict(gradients)
  modulated = {path[:-2] for path in flat if path[-2] == 'affine'}
  compared = set()
  for path, gradient in flat.items():
    name = name_of('/'.join(path), 256)
    expected_norm, expected_dot = golden['gradients'][f'{phase}/{name}']
    gradient = names.to_published_layout(
        np.asarray(gradient, np.float64), path[-1], path[:-1] in modulated)
    norm = np.sqrt(np.sum(gradient**2))
    dot = np.sum(gradient * fill.normal('probe/' + name, gradient.shape))
    compared.add(f'{phase}/{name}')
    if name.endswith('attn.k.bias'):
      assert norm < 1e-9, name
      continue
    bound = 5e-2 if name in ill_conditioned else tolerance
    assert abs(norm - expected_norm) <= bound * expected_norm, name
    assert abs(dot - expected_dot) <= 10 * bound * expected_norm, name
  assert compared == {key for key in golden['gradients'] if key.startswith(phase + '/')}
  for ours, published in losses.items():
    expected = golden['losses'][phase][published]
    assert abs(float(metrics[ours]) - expected) <= 1e-4 * abs(expected), ours


@pytest.mark.slow
def test_generator_phase_matches_the_reference(phases):
  networks = phases['networks']

  def run(params, buffers, d_params, features, batch, draws):
    buffers = phases_lib.move_style_average(networks, params, buffers, draws.z)
    gradients, metrics = jax.grad(phases_lib.generator_loss, has_aux=True)(
        params, buffers, d_params, features, 0.0, batch, draws, networks, REFERENCE)
    return gradients, metrics, buffers

  gradients, metrics, buffers = jax.jit(run)(
      phases['g']['params'], phases['g']['buffers'], phases['d'], phases['features'],
      phases['batch'], phases['draws'])
  # These four scalars are sums over whole maps that nearly cancel: another,
  # mathematically equal form of the convolutions moves them as much as this.
  cancelled = {f'synthesis.dec.Dec_{block}.noise_strength'
               for block in ('16x16.conv1', '32x32.conv0', '64x64.conv0', '64x64.conv1')}
  _check('Gmain', gradients, names.generator_name, metrics,
         {'loss/g': 'Loss/G/loss', 'loss/g_stage1': 'Loss/G/loss_s1',
          'loss/perceptual': 'Loss/G/pcp_loss', 'loss/l1': 'Loss/G/l1_loss'}, 1e-3, cancelled)
  golden = reference.load('train_step_256.json')['losses']['w_avg_after']
  np.testing.assert_allclose(buffers['mapping']['w_avg'][:8], golden, atol=1e-6)


@pytest.mark.slow
def test_discriminator_phase_matches_the_reference(phases):
  networks = phases['networks']

  def run(params, g, batch, draws):
    buffers = phases_lib.move_style_average(networks, g['params'], g['buffers'], draws.z)
    return jax.grad(phases_lib.discriminator_loss, has_aux=True)(
        params, g['params'], buffers, {}, None, 0.0, batch, draws, networks, REFERENCE)

  gradients, metrics = jax.jit(run)(phases['d'], phases['g'], phases['batch'], phases['draws'])
  _check('Dmain', gradients, names.discriminator_name, metrics,
         {'loss/d': 'Loss/D/loss', 'loss/d_stage1': 'Loss/D/loss_s1',
          'logits/fake': 'Loss/scores/fake', 'logits/real_stage1': 'Loss/scores/real_s1',
          'signs/real': 'Loss/signs/real'}, 1e-3)


@pytest.mark.slow
def test_r1_phase_matches_the_reference(phases):
  def run(params, batch):
    return jax.grad(phases_lib.r1_loss, has_aux=True)(
        params, 0.0, batch, None, phases['networks'], REFERENCE)

  gradients, metrics = jax.jit(run)(phases['d'], phases['batch'])
  _check('Dreg', gradients, names.discriminator_name, metrics,
         {'loss/r1': 'Loss/r1_penalty', 'loss/r1_stage1': 'Loss/r1_penalty_s1'}, 1e-2)
