"""The published networks at 256 px, filled with known values, and their results on known inputs.

`tests/golden` has the results of the published implementation, computed in float32 on a CPU with
the weights and inputs of `fill`. Its arrays are NCHW; everything here is NHWC.

  case = CASES['const_psi05']
  results = jax.jit(case.function(Generator(), Discriminator()))(*case.arguments())
  case.errors(results)
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import os
from typing import Any, cast

import jax
import numpy as np

from benchmarks.reference import fill
from convert import from_torch
from mat_jax.nn.discriminator import Discriminator
from mat_jax.nn.generator import Generator

Tree = Any
# (variables, inputs) -> the results to compare.
Function = Callable[..., tuple[jax.Array, jax.Array]]

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
                      'tests', 'golden')
_RESOLUTION = 256
_STRIDE = 4  # of the pixels that were kept


def load(name: str) -> Any:
  """A golden .npz or .json file."""
  path = os.path.join(GOLDEN, name)
  if name.endswith('.npz'):
    return np.load(path)
  with open(path, encoding='utf-8') as file:
    return json.load(file)


def nhwc(x: np.ndarray) -> np.ndarray:
  """[N, C, H, W] -> [N, H, W, C]."""
  return np.transpose(x, (0, 2, 3, 1))


def relative_error(value: Any, expected: Any) -> float:
  """max|a - b| / max|b| of two arrays of one shape."""
  value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
  assert value.shape == expected.shape, (value.shape, expected.shape)
  return float(np.abs(value - expected).max() / np.abs(expected).max())


def state_dict(network: str, prefix: str = '',
               resolution: int = _RESOLUTION) -> dict[str, np.ndarray]:
  """A filled state dict of the 'generator' or 'discriminator' at 256 or 512 px."""
  manifest = load(f'manifest_{resolution}.json')[network]
  shapes = {**manifest['parameters'], **manifest['buffers']}
  return {name: fill.fill(prefix + name, tuple(shape)) for name, shape in shapes.items()
          if not name.endswith(('resample_filter', 'attn_mask'))}


@functools.cache
def generator_variables() -> Tree:
  """Of the filled generator; not to be changed."""
  return from_torch.generator_variables(state_dict('generator'))


@functools.cache
def discriminator_variables() -> Tree:
  """Of the filled discriminator; not to be changed."""
  return from_torch.discriminator_variables(state_dict('discriminator'))


def keep_masks(case: str) -> dict[str, np.ndarray]:
  """The keep masks of a case, for two images of 256 px."""
  return {'first': fill.keep_mask(case, 'first', (2, 256, 180)),
          'second': fill.keep_mask(case, 'second', (2, 16, 16, 512))}


def images(case: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images [N, 256, 256, 3], masks [N, 256, 256, 1] and latents [N, 512] of a case."""
  image, mask, z = fill.inputs(case, count, _RESOLUTION)
  return nhwc(image), nhwc(mask), z


@dataclasses.dataclass(frozen=True)
class Case:
  """A pass through one network whose results are known.

  Attributes:
    function: generator and discriminator -> the pass, to be compiled.
    arguments: makes what it takes.
    names: of its results, in the file of the golden values.
    tolerance: what `relative_error` in float32 may be.
  """

  function: Callable[[Generator, Discriminator], Function]
  arguments: Callable[[], tuple[Any, ...]]
  names: tuple[str, str]
  tolerance: float = 2e-5

  def errors(self, results: tuple[Any, Any]) -> dict[str, float]:
    """Name of a result -> its relative error."""
    golden, found = load('networks_256_every_4th.npz'), {}
    for name, result in zip(self.names, results, strict=True):
      expected, result = golden[name], np.asarray(result)
      if result.ndim == 4:
        expected, result = nhwc(expected), result[:, ::_STRIDE, ::_STRIDE]
      found[name] = relative_error(result, expected)
    return found


def _generator_case(name: str, psi: float, noise_mode: str) -> Case:
  def function(generator: Generator, _: Discriminator) -> Function:
    return lambda variables, image, mask, z, keep: cast(
        tuple[jax.Array, jax.Array], generator.apply(
            variables, image, mask, z, truncation_psi=psi, noise_mode=noise_mode, keep_masks=keep))

  return Case(function, lambda: (generator_variables(), *images('g256', 2),
                                 keep_masks(f'g256/{name}')),
              (f'{name}/image', f'{name}/stage1'))


def _discriminator_arguments() -> tuple[Any, ...]:
  image, mask, _ = images('d256', 4)
  return discriminator_variables(), image, mask, images('d256/stage1', 4)[0]


CASES = {
    'none_psi1': _generator_case('none_psi1', 1.0, 'none'),
    'const_psi05': _generator_case('const_psi05', 0.5, 'const'),
    'discriminator': Case(lambda _, discriminator: cast(Function, discriminator.apply),
                          _discriminator_arguments, ('d/logits', 'd/logits_stage1')),
}
