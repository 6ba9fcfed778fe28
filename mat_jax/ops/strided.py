"""Convolutions of stride 2 whose derivatives of any order are convolutions that cuDNN has.

The sum of y * strided(x, kernel) is linear in each of x, kernel and y, and its derivative by
each of them is one of three convolutions: `strided`, its adjoint `transposed`, and
`kernel_gradient`. They are each other's derivatives. What JAX derives by itself from a
zero-inserted convolution, in the second derivatives of R1 for example, has the same values, but
XLA's GPU compiler then recognises neither cuDNN's input gradient nor its kernel gradient: it
inserts the zeros (four times the work) and convolves with whole maps as kernels.

All maps are NHWC, all kernels [3, 3, I, O]; odd sides 2 h + 1 of x become h.
"""

import jax
from jax import lax

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def _strided(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(x, kernel, (2, 2), 'VALID', dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def strided(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Correlation of stride 2: [N, 2 h + 1, 2 w + 1, I], [3, 3, I, O] -> [N, h, w, O]."""
  return _strided(x, kernel)


@jax.custom_vjp
def transposed(y: jax.Array, kernel: jax.Array) -> jax.Array:
  """Adjoint of `strided` by x: [N, h, w, O], [3, 3, I, O] -> [N, 2 h + 1, 2 w + 1, I]."""
  n, h, w, _ = y.shape
  # XLA takes a convolution with a reversed kernel for cuDNN's gradient of the input, but
  # simplifies the reversal of a scaled or reversed kernel before it looks.
  kernel = lax.optimization_barrier(kernel)
  x = jax.ShapeDtypeStruct((n, 2 * h + 1, 2 * w + 1, kernel.shape[2]), y.dtype)
  (result,) = jax.linear_transpose(lambda x: _strided(x, kernel), x)(y)
  return result


@jax.custom_vjp
def kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
  """Adjoint of `strided` by the kernel: [N, 2 h + 1, 2 w + 1, I], [N, h, w, O] -> kernel."""
  kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], y.shape[-1]), x.dtype)
  (result,) = jax.linear_transpose(lambda kernel: _strided(x, kernel), kernel)(y)
  return result


def _keep(function):
  return lambda a, b: (function(a, b), (a, b))


strided.defvjp(
    _keep(strided), lambda kept, g: (transposed(g, kept[1]), kernel_gradient(kept[0], g)))
transposed.defvjp(
    _keep(transposed), lambda kept, g: (strided(g, kept[1]), kernel_gradient(g, kept[0])))
kernel_gradient.defvjp(
    _keep(kernel_gradient), lambda kept, g: (transposed(kept[1], g), strided(kept[0], g)))
