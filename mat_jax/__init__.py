"""MAT, the Mask-Aware Transformer for large-hole inpainting, in JAX/Flax.

  from mat_jax import Inpainter
  result = Inpainter.from_checkpoint('models/celebahq256').inpaint(image, mask)

What is exported here is imported on first use, so that modules which need no JAX, as those of the
data pipeline, can import `mat_jax.errors` alone.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

_EXPORTS = {
    'Discriminator': 'mat_jax.nn.discriminator',
    'Generator': 'mat_jax.nn.generator',
    'Inpainter': 'mat_jax.inference.inpainter',
    'UserError': 'mat_jax.errors',
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
  if name not in _EXPORTS:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
  return [*__all__, '__version__']
