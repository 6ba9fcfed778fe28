"""Metrics of pairs of images and of sets of images, with their intervals.

  from eval import metrics
  metrics.psnr(a, b); metrics.lpips(a, b, net='alex'); metrics.frechet_distance(real, fake)

What is exported here is imported on first use.
"""

import importlib
from typing import Any

_EXPORTS = {
    'psnr': 'image_metrics', 'ssim': 'image_metrics', 'l1': 'image_metrics',
    'lpips': 'lpips_distance', 'frechet_distance': 'distribution',
    'kernel_distance': 'distribution', 'ids': 'distribution',
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
  if name not in _EXPORTS:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_EXPORTS[name]}'), name)
