"""ReLU and max pooling whose derivatives read few maps.

Left to JAX, XLA's GPU compiler keeps the maps before and after each ReLU, and for pooling the
positions of all maxima as 32-bit integers on every axis. All maps are NHWC.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
  """max(x, 0); the derivative, 0 at 0, is taken from the result, which the next layer keeps."""
  return jnp.maximum(x, 0.0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  y = relu(x)
  return y, y


relu.defvjp(_relu_forward, lambda y, gradient: (jnp.where(y > 0.0, gradient, 0.0),))


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
  """Maxima of windows of 2x2: [N, H, W, C] -> [N, H / 2, W / 2, C], sides rounded down.

  The gradient of a maximum goes to its first position, as XLA's does, which is found again in `x`.
  """
  return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')


def _max_pool_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
  n, h, w, c = gradient.shape
  windows = x[:, :2 * h, :2 * w].reshape(n, h, 2, w, 2, c)
  entries = [windows[:, :, i, :, j] for i in range(2) for j in range(2)]
  highest = functools.reduce(jnp.maximum, entries)
  parts, is_found = [], jnp.zeros(gradient.shape, bool)
  for entry in entries:
    is_highest = entry == highest
    parts.append(jnp.where(is_highest & ~is_found, gradient, 0.0))
    is_found |= is_highest
  rows = [jnp.stack(parts[2 * i:2 * i + 2], axis=3) for i in range(2)]
  by_x = jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, c)
  return (jnp.pad(by_x, ((0, 0), (0, x.shape[1] - 2 * h), (0, x.shape[2] - 2 * w), (0, 0))),)


max_pool.defvjp(lambda x: (max_pool(x), x), _max_pool_backward)
