"""MAT, the Mask-Aware Transformer for large-hole inpainting, in JAX/Flax.

The networks are imported on first use, so that modules which need no JAX (the
data pipeline, the checkpoint readers) can import `mat_jax.errors` alone.
"""

import importlib
from typing import Any

_EXPORTS = {
    'Generator': 'mat_jax.nn.generator',
    'Discriminator': 'mat_jax.nn.discriminator',
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
  if name not in _EXPORTS:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_EXPORTS[name]), name)
