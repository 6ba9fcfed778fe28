"""The phases of a training step at 256 px whose gradients the published implementation computed.

Two images, the weights of `fill`, VGG19 and the settings of the published training. Of each
gradient `tests/golden/train_step_256.json` has the norm and the dot product with known values.

  phase = PHASES['Gmain']
  results = jax.jit(phase.function(networks))(*phase.arguments())
  phase.errors(results)
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from benchmarks.reference import fill, published
from convert import feature_nets, from_torch, names
from mat_jax.training.step import objectives
from mat_jax.training.step.objectives import Networks
from mat_jax.training.step.random_inputs import RandomInputs
from mat_jax.training.step.settings import Augmentation, Optimizer, Training

Tree = Any
# Of the arguments of the phase -> gradients and metrics, and further results.
Function = Callable[..., tuple[Any, ...]]

SETTINGS = Training(
    batch_size=2, microbatch=2, adversarial_weight=1.0, adversarial_stage1_weight=1.0,
    r1_gamma=10.0, r1_interval=16, pcp_ratio=0.1, l1_weight=0.0,
    lpips_weight=0.0, feature_downsample=1, projected_weight=0.0, lecam_weight=0.0,
    style_mixing=0.0, truncation_psi=0.5, noise_mode='const', ema_kimg=10.0, ema_rampup=None, frozen_d_modules=(),
    optimizer=Optimizer(), augmentation=Augmentation())
FEATURE_NETWORK = 'vgg19'
_FILE = 'train_step_256.json'
# VGG19's convolutions, 0 for a pooling layer; torchvision counts ReLUs as well.
_VGG19 = (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4)
# Any constant may be added to all logits of a query, so that its gradient is zero.
_VANISHING = 'attn.k.bias'


@functools.cache
def _weights() -> tuple[Tree, Tree, Tree]:
  """Variables of the generator, parameters of the discriminator, and VGG19's weights."""
  generator = published.state_dict('generator')
  for name in generator:
    if name.endswith('toRGB.conv.weight'):
      generator[name] = generator[name] * np.float32(0.1)
  return (from_torch.generator_variables(generator), published.discriminator_variables()['params'],
          feature_nets.vgg_params_from_state_dict(_vgg19_state_dict(), FEATURE_NETWORK))


def _vgg19_state_dict() -> dict[str, np.ndarray]:
  values, index, inputs = {}, 0, 3
  for outputs in _VGG19:
    if outputs:
      for leaf, shape in (('weight', (outputs, inputs, 3, 3)), ('bias', (outputs,))):
        name = f'features.{index}.{leaf}'
        values[name] = fill.fill_feature_net(name, shape)
      inputs, index = outputs, index + 1
    index += 1
  return values


def _arguments() -> tuple[Any, ...]:
  """Of every phase: the three networks' weights, batch and random inputs."""
  image, mask, z = published.images('train256', 2)
  # A jitted function takes NumPy's arrays too.
  fields: dict[str, Any] = {'z': z, 'z_mixed': z, 'cutoff': np.full(2, 10), 'noise': {},
                            'keep_masks': published.keep_masks('train256')}
  inputs = RandomInputs(**fields)
  return *_weights(), {'image': image, 'mask': mask}, inputs


@dataclasses.dataclass(frozen=True)
class Errors:
  """The errors of the results of a phase.

  Attributes:
    norms: parameter -> relative error of its gradient's norm.
    dots: parameter -> error of its gradient's dot product, over the norm.
    vanishing: the largest norm of a gradient that is zero in theory.
    losses: loss -> relative error.
  """

  norms: dict[str, float]
  dots: dict[str, float]
  vanishing: float
  losses: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Phase:
  """One phase.

  Attributes:
    name: in the file of the golden values.
    function: networks -> the phase, to be compiled; gradients and metrics are its first results.
    name_of: path of a parameter, resolution -> its published name.
    losses: metric -> its published name.
    tolerance: largest allowed error of a norm in float32.
    ill_conditioned: parameters that may be off by 5e-2: sums over whole maps that nearly cancel.
      Another, mathematically equal implementation of the convolutions changes them as much.
  """

  name: str
  function: Callable[[Networks], Function]
  name_of: Callable[[str, int], str]
  losses: dict[str, str]
  tolerance: float
  ill_conditioned: frozenset[str] = frozenset()

  def arguments(self) -> tuple[Any, ...]:
    """The arguments of `function`."""
    return _arguments()

  def bound(self, name: str) -> float:
    """The largest allowed error of the norm of a parameter's gradient in float32."""
    return 5e-2 if name in self.ill_conditioned else self.tolerance

  def errors(self, results: tuple[Any, ...]) -> Errors:
    """Compares the results of `function`; KeyError if there is no such parameter."""
    golden = published.load(_FILE)
    found = dict(_named(results[0], self.name_of))
    expected = {key.removeprefix(self.name + '/'): value
                for key, value in golden['gradients'].items() if key.startswith(self.name + '/')}
    if found.keys() != expected.keys():
      raise KeyError(f'{self.name}: {sorted(found.keys() ^ expected.keys())}')
    norms, dots, vanishing = {}, {}, [0.0]
    for name, gradient in found.items():
      norm = float(np.sqrt(np.sum(gradient**2)))
      if name.endswith(_VANISHING):
        vanishing.append(norm)
        continue
      dot = float(np.sum(gradient * fill.normal('probe/' + name, gradient.shape)))
      expected_norm, expected_dot = expected[name]
      norms[name] = _relative(norm - expected_norm, expected_norm)
      dots[name] = _relative(dot - expected_dot, expected_norm)
    published_losses = golden['losses'][self.name]
    losses = {ours: abs(float(results[1][ours]) / published_losses[theirs] - 1)
              for ours, theirs in self.losses.items()}
    return Errors(norms, dots, max(vanishing), losses)


def _relative(difference: float, size: float) -> float:
  """The size of a difference over another, which is 0 where no gradient flows."""
  if not size:
    return float('inf') if difference else 0.0
  return abs(difference) / size


def _named(gradients: Tree, name_of: Callable[[str, int], str]) -> Any:
  """Pairs of published name and gradient, float64 in the published layout."""
  flat = traverse_util.flatten_dict(gradients)
  modulated = {path[:-2] for path in flat if path[-2] == 'affine'}
  for path, gradient in flat.items():
    yield name_of('/'.join(path), 256), names.to_published_layout(
        np.asarray(gradient, np.float64), path[-1], path[:-1] in modulated)


def style_average_error(buffers: Tree) -> float:
  """Largest difference of the first values of `w_avg` after Gmain, its third result."""
  expected = published.load(_FILE)['losses']['w_avg_after']
  return float(np.abs(np.asarray(buffers['mapping']['w_avg'])[:len(expected)] - expected).max())


def _generator_phase(networks: Networks) -> Function:
  def run(g: Tree, d_params: Tree, features: Tree, batch: Tree,
          inputs: RandomInputs) -> tuple[Any, ...]:
    buffers = objectives.update_style_average(networks, g['params'], g['buffers'], inputs.z)
    gradients, metrics = jax.grad(objectives.generator_loss, has_aux=True)(
        g['params'], g_buffers=buffers, d_params=d_params, features=features, probability=0.0,
        batch=batch, random_inputs=inputs, networks=networks, settings=SETTINGS)
    return gradients, metrics, buffers

  return run


def _discriminator_phase(networks: Networks) -> Function:
  def run(g: Tree, d_params: Tree, features: Tree, batch: Tree,
          inputs: RandomInputs) -> tuple[Any, ...]:
    buffers = objectives.update_style_average(networks, g['params'], g['buffers'], inputs.z)
    return jax.grad(objectives.discriminator_loss, has_aux=True)(
        d_params, g_params=g['params'], g_buffers=buffers, lecam_averages={}, features=features,
        probability=0.0, batch=batch, random_inputs=inputs, networks=networks, settings=SETTINGS)

  return run


def _r1_phase(networks: Networks) -> Function:
  def run(g: Tree, d_params: Tree, features: Tree, batch: Tree,
          inputs: RandomInputs) -> tuple[Any, ...]:
    del g, features, inputs
    return jax.grad(objectives.r1_loss, has_aux=True)(
        d_params, probability=0.0, batch=batch, transforms=None, networks=networks,
        settings=SETTINGS)

  return run


PHASES = {phase.name: phase for phase in (
    Phase('Gmain', _generator_phase, names.generator_name,
          {'loss/g': 'Loss/G/loss', 'loss/g_stage1': 'Loss/G/loss_s1',
           'loss/perceptual': 'Loss/G/pcp_loss', 'loss/l1': 'Loss/G/l1_loss'}, 1e-3,
          frozenset(f'synthesis.dec.Dec_{block}.noise_strength' for block in (
              '16x16.conv1', '32x32.conv0', '64x64.conv0', '64x64.conv1'))),
    Phase('Dmain', _discriminator_phase, names.discriminator_name,
          {'loss/d': 'Loss/D/loss', 'loss/d_stage1': 'Loss/D/loss_s1',
           'logits/fake': 'Loss/scores/fake', 'logits/real_stage1': 'Loss/scores/real_s1',
           'signs/real': 'Loss/signs/real'}, 1e-3),
    Phase('Dreg', _r1_phase, names.discriminator_name,
          {'loss/r1': 'Loss/r1_penalty', 'loss/r1_stage1': 'Loss/r1_penalty_s1'}, 1e-2))}
