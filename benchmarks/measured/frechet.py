"""Times the Frechet distance of two large sets of features, and measures its accuracy.

  python -m benchmarks.measured.frechet [--scipy]

samples 50,000 x 2,048 correlated features twice, whose variances decay like those of Inception. The
last line is JSON: seconds (lower is better), and with --scipy also those of the usual
`scipy.linalg.sqrtm` of the product of the covariances, and the relative difference.
"""

import json
import platform
import time

from absl import app, flags
import numpy as np
import scipy.linalg

from eval.metrics import distribution

_IMAGES = flags.DEFINE_integer('images', 50_000, 'Rows of each set.')
_DIMENSION = flags.DEFINE_integer('dimension', 2048, 'Columns.')
_SCIPY = flags.DEFINE_boolean('scipy', False, 'Compare with scipy.linalg.sqrtm.')


def draw(rng: np.random.Generator, rotation: np.ndarray, decay: float, mean: float) -> np.ndarray:
  """float32 [images, dimension]: normal, eigenvalues k^-decay, total variance 100."""
  variances = np.arange(1, len(rotation) + 1) ** -decay
  basis = (np.sqrt(100 * variances / variances.sum())[:, None] * rotation).astype(np.float32)
  noise = rng.standard_normal((_IMAGES.value, len(rotation)), np.float32)
  return noise @ basis + np.float32(mean)


def with_sqrtm(real: np.ndarray, fake: np.ndarray) -> float:
  """The distance as it is usually computed, in float64."""
  covariances = [np.cov(x, rowvar=False, dtype=np.float64) for x in (real, fake)]
  root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
  means = real.mean(0, np.float64) - fake.mean(0, np.float64)
  return float(means @ means + np.trace(covariances[0] + covariances[1] - 2 * root.real))


def main(argv: list[str]) -> None:
  del argv
  rng = np.random.default_rng(0)
  square = (_DIMENSION.value, _DIMENSION.value)
  rotation = np.linalg.qr(rng.standard_normal(square))[0]
  # Directions near the other ones, so that the covariances do not commute.
  rotated = np.linalg.qr(rotation.T + 0.002 * rng.standard_normal(square))[0].T
  real, fake = draw(rng, rotation, 1.4, 0.4), draw(rng, rotated, 1.3, 0.41)
  begun = time.perf_counter()
  distance = distribution.frechet_distance(real, fake)
  found = {'cpu': platform.machine(), 'images': len(real), 'dimension': real.shape[1],
           'distance': distance, 'seconds': round(time.perf_counter() - begun, 2)}
  if _SCIPY.value:
    begun = time.perf_counter()
    expected = with_sqrtm(real, fake)
    found |= {'scipy_seconds': round(time.perf_counter() - begun, 2), 'scipy_distance': expected,
              'relative_difference': abs(distance / expected - 1)}
  print(json.dumps(found))


if __name__ == '__main__':
  app.run(main)
