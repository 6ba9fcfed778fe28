"""LPIPS v0.1 as a function of its weights (Zhang et al., arXiv 1801.03924, equation 1)."""

from typing import Any

import jax
import jax.numpy as jnp

from mat_jax.features import vgg


def distance(params: Any, a: jax.Array, b: jax.Array, net: str) -> jax.Array:
  """LPIPS of the pairs of a batch, float32 on every device.

  Args:
    params: {'features', 'lin'} of `convert.feature_nets.load_lpips`. Inside `jax.jit`
      pass it as an argument, lest the weights become constants of the compiled function.
    a: float [N, H, W, 3] in [-1, 1]; sides at least 31 (alex) or 16 (vgg).
    b: likewise.
    net: 'alex' or 'vgg', which `params` are of.

  Returns:
    float32 [N], at least 0; 0 to rounding where the images are equal.
  """
  # The images of a pair are neighbours, so that a sharded batch needs no communication.
  pairs = jnp.stack([a, b], axis=1)
  x = vgg.imagenet_normalize(pairs.reshape(-1, *a.shape[1:]))
  layers = vgg.LPIPS_LAYERS[net]
  with jax.default_matmul_precision('float32'):
    features = (vgg.alexnet_features(params['features'], x) if net == 'alex' else
                vgg.vgg_features(params['features'], x, layers, 'vgg16'))
  first, second = ([features[layer][i::2] for layer in layers] for i in range(2))
  return vgg.lpips(first, second, params['lin'])
