"""Reference values of the published implementation, and the weights they belong to.

The golden files hold NCHW arrays; everything returned here is NHWC.
"""

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from benchmarks.reference import fill
from benchmarks.reference.published import (  # noqa: F401, the tests take them from here
  GOLDEN,
  load,
  nhwc,
  relative_error,
  state_dict,
)
from convert import names


def layer_input(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """The case's input, NHWC when it is a map."""
  value = fill.normal('layers/' + key, shape)
  return nhwc(value) if len(shape) == 4 else value


def filled(module: nn.Module, prefix: str, *inputs, name_of=names.generator_name):
  """The variables of `module` with the deterministic values of `prefix`."""
  shapes = traverse_util.flatten_dict(
      jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs)))
  modulated = {path[:-2] for path in shapes if path[-2] == 'affine'}
  values = {}
  for path, expected in shapes.items():
    is_modulated = path[:-1] in modulated
    layout = names.to_published_layout(
        np.broadcast_to(np.float32(0), expected.shape), path[-1], is_modulated)
    name = prefix + '.' + name_of('x/' + '/'.join(path[1:]), 256)[2:]
    values[path] = names.to_our_layout(fill.fill(name, layout.shape), path[-1], is_modulated)
  return traverse_util.unflatten_dict(values)


def random_variables(module: nn.Module, *inputs, seed: int = 0):
  """Variables of a module from NumPy: unlike `init`, nothing is compiled."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))

  def draw(path, leaf):
    name = path[-1].key
    value = rng.standard_normal(leaf.shape, np.float32)
    scale = {'kernel': 1.0, 'noise_const': 1.0}.get(name, 0.1)
    if name == 'kernel' and any('mapping' == key.key for key in path):
      scale = 100.0  # stored divided by the learning-rate multiplier 0.01
    return scale * value + (1.0 if name == 'bias' and path[-2].key == 'affine' else 0.0)

  return jax.tree_util.tree_map_with_path(draw, shapes)
