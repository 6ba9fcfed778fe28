"""Deterministic parameter values for the parity cases, keyed by parameter name.

The reference values in `golden` were computed with networks whose every
parameter and buffer was set by `fill(name, shape)`, so the same weights can be
rebuilt anywhere from the names and shapes in `manifest_*.json` without storing
them. `numpy.random.RandomState` is used because its streams are frozen.
"""

import zlib

import numpy as np


def normal(key, shape):
  """Standard normal float32 array that depends on `key` and `shape` alone."""
  rng = np.random.RandomState(zlib.crc32(key.encode()))
  return rng.standard_normal(shape).astype(np.float32)


def uniform(key, shape, low=0.0, high=1.0):
  """Uniform float32 array that depends on `key` and `shape` alone."""
  rng = np.random.RandomState(zlib.crc32(key.encode()))
  return rng.uniform(low, high, shape).astype(np.float32)


def fill(name, shape):
  """Value of the MAT parameter or buffer `name` (PyTorch naming), float32.

  Buffers that the architecture determines (`resample_filter`, `attn_mask`) are
  not filled: they keep the value that the architecture gives them.
  """
  last = name.rsplit('.', 1)[-1]
  if last in ('resample_filter', 'attn_mask'):
    raise KeyError(f'{name} is fixed by the architecture')
  value = normal(name, shape)
  if last == 'bias':
    value = 0.1 * value + (1.0 if '.affine.' in name else 0.0)
  elif last == 'noise_strength':
    value = 0.1 * np.abs(value)
  elif last == 'w_avg':
    value = 0.5 * value
  elif last == 'weight' and name.startswith('mapping.fc'):
    value = 100.0 * value  # stored divided by the 0.01 learning-rate multiplier
  elif last == 'weight' and '.mapping.fc' in name:
    value = 100.0 * value
  return np.asarray(value, np.float32)


def fill_feature_net(name, shape):
  """Value of a VGG19 / AlexNet / Inception parameter `name` (torchvision naming).

  Convolution weights are He-normal so that activations keep their scale.
  """
  value = normal('feature_net/' + name, shape)
  if name.endswith('weight') and len(shape) == 4:
    return value * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
  return 0.05 * value


def inputs(case, batch, resolution):
  """Inputs of a parity case, NCHW: image in [-1, 1], mask (1 keeps, 0 hole), z."""
  y, x = np.mgrid[0:resolution, 0:resolution].astype(np.float32) / resolution
  image = np.empty((batch, 3, resolution, resolution), np.float32)
  mask = np.ones((batch, 1, resolution, resolution), np.float32)
  for n in range(batch):
    p = uniform(f'{case}/image/{n}', (3, 6), -1.0, 1.0)
    for c in range(3):
      a, b, d, e, f, g = p[c]
      image[n, c] = 0.6 * np.sin(6.0 * (a * x + b * y) + 3.0 * d) * np.cos(
          9.0 * (e * x - f * y)) + 0.3 * g
    boxes = uniform(f'{case}/mask/{n}', (5, 4))
    for cy, cx, h, w in boxes:
      y0, x0 = int(cy * resolution * 0.9), int(cx * resolution * 0.9)
      mask[n, 0, y0:y0 + int((0.1 + 0.3 * h) * resolution),
           x0:x0 + int((0.1 + 0.3 * w) * resolution)] = 0.0
  image = np.clip(image, -1.0, 1.0).astype(np.float32)
  z = normal(f'{case}/z', (batch, 512))
  return image, mask, z


def keep_mask(case, stage, shape):
  """Keep mask of a stage: 0/1 float32, each 1 with probability 1/2."""
  return (uniform(f'{case}/keep/{stage}', shape) < 0.5).astype(np.float32)
