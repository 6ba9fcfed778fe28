"""Floating-point operations that the mathematics of a function needs.

Counted from the jaxpr: matmuls and convolutions, two operations for every multiply-add
that is not with a zero of padding or dilation. Elementwise work is left out. What `remat`
computes twice is counted twice, so count a function without it.
"""

from collections.abc import Callable, Iterable
import functools
import math
from typing import Any

import jax
from jax.extend import core


def flops(function: Callable[..., Any], *arguments: Any) -> int:
  """Operations of matmuls and convolutions in `function(*arguments)`; arrays or their shapes.

  A scan counts its body once for every turn, a condition its most costly branch, and a
  `shard_map` its body once, the share of one device.

  Raises:
    NotImplementedError: a matmul or convolution in a while loop, whose trip count is unknown.
  """
  return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(_count_equation(equation) for equation in _needed(jaxpr))


def _needed(jaxpr: core.Jaxpr) -> Iterable[Any]:
  """The equations that the results depend on, last one first."""
  needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
  for equation in reversed(jaxpr.eqns):
    if equation.effects or not needed.isdisjoint(equation.outvars):
      needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
      yield equation


def _count_equation(equation: Any) -> int:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    left, right = (v.aval.shape for v in equation.invars)
    return _dot(left, right, params['dimension_numbers'])
  if name == 'conv_general_dilated':
    return _convolution(equation)
  inner = [_count(jaxpr) for jaxpr in _inner(params)]
  if name == 'cond':
    return max(inner)
  if name == 'scan':
    return params['length'] * sum(inner)
  if name == 'while' and sum(inner):
    raise NotImplementedError('a while loop with matmuls has no known trip count')
  return sum(inner)


def _inner(params: dict[str, Any]) -> Iterable[core.Jaxpr]:
  """The jaxprs among an equation's parameters (jit, cond, scan, custom rules, remat)."""
  for value in params.values():
    for part in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(part, core.ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, core.Jaxpr):
        yield part


def _dot(left: tuple[int, ...], right: tuple[int, ...], dimensions: Any) -> int:
  (_, right_contracted), (_, right_batch) = dimensions
  rest = [size for axis, size in enumerate(right) if axis not in (*right_contracted, *right_batch)]
  return 2 * math.prod(left) * math.prod(rest)


def _convolution(equation: Any) -> int:
  """Two operations for each output, input channel and tap that meets an entry of the input."""
  left, kernel = (v.aval.shape for v in equation.invars)
  (out,) = (v.aval.shape for v in equation.outvars)
  params = equation.params
  numbers = params['dimension_numbers']
  pairs = math.prod(
      _pairs(left[numbers.lhs_spec[axis + 2]], kernel[numbers.rhs_spec[axis + 2]],
             out[numbers.out_spec[axis + 2]], params['window_strides'][axis],
             params['padding'][axis][0], params['lhs_dilation'][axis],
             params['rhs_dilation'][axis])
      for axis in range(len(left) - 2))
  images, features = (out[axis] for axis in numbers.out_spec[:2])
  return 2 * images * features * kernel[numbers.rhs_spec[1]] * pairs


@functools.cache
def _pairs(size: int, taps: int, outputs: int, stride: int, before: int, dilation: int,
           tap_dilation: int) -> int:
  """Pairs of an output and a tap that read an entry of the input, along one axis."""
  return sum(
      position % dilation == 0 and 0 <= position // dilation < size
      for output in range(outputs) for tap in range(taps)
      for position in [output * stride + tap * tap_dilation - before])
