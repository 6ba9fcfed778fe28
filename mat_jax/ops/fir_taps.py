"""The FIR filter [1, 3, 3, 1] on both axes at once, as one sum of taps.

A GPU's kernel for one axis reads and writes the map, and one for both does so no more often: the
16 taps of a result are in the cache. XLA does not fuse the two axes by itself, as it would compute
the first one four times, and each derivative here is the filter again, where JAX would add 16 maps
of zeros around the gradient.

All maps are [N, H, W, C]; sums are in float32.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

_TAPS = (1.0, 3.0, 3.0, 1.0)  # times 1/8: sum 1


def _windows(x: jax.Array, padding: tuple[int, int], stride: int) -> jax.Array:
  """The sum of 4 x 4 entries by their taps, sum 64, around every `stride`-th entry."""
  x = lax.pad(x.astype(jnp.float32), jnp.float32(0.0), ((0, 0, 0), *[(*padding, 0)] * 2, (0, 0, 0)))
  n, h, w, c = x.shape
  rows, columns = (h - 4) // stride + 1, (w - 4) // stride + 1

  def shifted(i: int, j: int) -> jax.Array:
    return lax.slice(x, (0, i, j, 0), (n, i + (rows - 1) * stride + 1,
                                       j + (columns - 1) * stride + 1, c), (1, stride, stride, 1))

  def row(i: int) -> jax.Array:
    return (shifted(i, 0) + shifted(i, 3)) + 3.0 * (shifted(i, 1) + shifted(i, 2))

  return (row(0) + row(3)) + 3.0 * (row(1) + row(2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def blur(x: jax.Array, padding: tuple[int, int], gain: float = 1.0) -> jax.Array:
  """The filter.

  Args:
    x: [N, H, W, C].
    padding: zeros (before, after) each spatial axis, at most 3.
    gain: a factor.

  Returns:
    [N, H + padding - 3, ..., C] in the dtype of `x`.
  """
  return (_windows(x, padding, 1) * (gain / 64.0)).astype(x.dtype)


# The filter is symmetric: its adjoint is itself, with what was not padded as padding.
blur.defvjp(lambda x, padding, gain: (blur(x, padding, gain), None),
            lambda padding, gain, _, g: (blur(g, (3 - padding[0], 3 - padding[1]), gain),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def downsample(x: jax.Array, gain: float = 1.0) -> jax.Array:
  """Every second entry of the filter with padding (1, 1): [N, 2H, 2W, C] -> [N, H, W, C]."""
  return (_windows(x, (1, 1), 2) * (gain / 64.0)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def upsample(x: jax.Array, gain: float = 1.0) -> jax.Array:
  """The filter over zero-inserted entries, padding (2, 1): [N, H, W, C] -> [N, 2H, 2W, C].

  It is 4 * `gain` times the filter, which keeps a constant.
  """
  n, h, w, c = x.shape
  y = lax.pad(x.astype(jnp.float32), jnp.float32(0.0), ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))

  def shifted(i: int, j: int) -> jax.Array:
    return lax.slice(y, (0, i, j, 0), (n, i + h, j + w, c))

  def phase(i: int, j: int) -> jax.Array:
    """Even or odd rows and columns: the near entry counts three times as much as the other."""
    a, b = 2 * i, 2 * j
    return (3.0 * (3.0 * shifted(1, 1) + shifted(1, b)) + (3.0 * shifted(a, 1) + shifted(a, b)))

  rows = [jnp.stack([phase(i, 0), phase(i, 1)], 3) for i in range(2)]
  result = jnp.stack(rows, 2).reshape(n, 2 * h, 2 * w, c)
  return (result * (gain / 16.0)).astype(x.dtype)


downsample.defvjp(lambda x, gain: (downsample(x, gain), None),
                  lambda gain, _, g: (upsample(g, gain / 4.0),))
upsample.defvjp(lambda x, gain: (upsample(x, gain), None),
                lambda gain, _, g: (downsample(g, gain * 4.0),))
