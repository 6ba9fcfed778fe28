"""What float16 needs beside bfloat16, as its numbers end at 65504.

StyleGAN2-ADA's means against overflow (arXiv 2006.06676, appendix on mixed-precision training):
results of convolutions are clamped, far beyond the values that a network in order has; the styles
of a modulated convolution are normalised (`mat_jax.nn.modulation`).

Between convolutions one computes in float32: elementwise operations are fused into kernels that
read and write float16, so that this costs no memory traffic, and the gradients of biases and
styles, which are sums over maps, are added up in float32 too.
"""

import jax
from jax import lax
import jax.numpy as jnp

LIMIT = 256.0  # of the magnitude of a layer's results


def upcast(x: jax.Array) -> jax.Array:
  """float16 as float32, for what is computed between convolutions; other dtypes as they are."""
  return x.astype(jnp.float32) if x.dtype == jnp.float16 else x


@jax.custom_vjp
def store_gradient(x: jax.Array) -> jax.Array:
  """float32 as it is, whose gradient XLA stores in float16, once for all that reads it.

  Left alone XLA computes it again in each kernel that adds it up, from two maps, as it takes the
  way through float16 for superfluous and float32 is no less to read. Measured by the bytes of
  compiled blocks this is worth it where a bias or a noise strength has a gradient beside the
  kernel's, and not in dense layers.
  """
  return x


def _store_gradient_backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
  return (upcast(lax.optimization_barrier(gradient.astype(jnp.float16))),)


store_gradient.defvjp(lambda x: (x, None), _store_gradient_backward)


@jax.custom_vjp
def clamp(x: jax.Array) -> jax.Array:
  """float32 -> float16, clamped to +-`LIMIT`.

  The derivative is 0 beyond the limit, on either side. It is taken from the result, which is a
  residual of the next layer anyway: `x` is none.
  """
  return lax.clamp(-LIMIT, x, LIMIT).astype(jnp.float16)


def _clamp_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  y = clamp(x)
  return y, y


def _clamp_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
  return (upcast(jnp.where(jnp.abs(y) < LIMIT, gradient, 0.0)),)


clamp.defvjp(_clamp_forward, _clamp_backward)
