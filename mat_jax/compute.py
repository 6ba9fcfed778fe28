"""How the networks compute: the dtype, and the form of the heavy operations.

CPU and TPU want opposite forms of the same functions (docs/performance.md lists
them), so the choice is made once, here, and handed down to every
layer as one immutable value.
"""

import dataclasses
from typing import Any, Literal

from flax import linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Compute:
  """The dtype of activations and one form for each heavy operation.

  Attributes:
    dtype: dtype of activations and of the operands of products; parameters,
      statistics and demodulation stay float32.
    fir: the [1, 3, 3, 1] filter as 'shifted_adds' along each axis or as one
      'depthwise' 4x4 convolution.
    upsample_conv: a k3 convolution after 2x zero insertion as four
      'sub_kernels' on the small map, as a 'dilated' convolution or as the 'adjoint'
      of a strided one.
    downsample_conv: a k3 convolution of stride 2 as four convolutions over the
      input's 'phases', as one 'strided' convolution or as one whose derivatives
      are its 'adjoint's (`mat_jax.strided`).
    weight_gradient: the kernel gradient of stride-1 convolutions as k*k
      products of 'shifted_inputs' with the output gradient, or by 'xla'.
    remat: blocks compute their activations again in the backward pass instead
      of keeping them (arXiv 1604.06174).
  """

  dtype: Any = jnp.float32
  fir: Literal['shifted_adds', 'depthwise'] = 'shifted_adds'
  upsample_conv: Literal['sub_kernels', 'dilated', 'adjoint'] = 'dilated'
  downsample_conv: Literal['phases', 'strided', 'adjoint'] = 'strided'
  weight_gradient: Literal['shifted_inputs', 'xla'] = 'xla'
  remat: bool = False

  def block(self, module: type[nn.Module], static_argnums: tuple[int, ...] = ()) -> Any:
    """The class of a block, wrapped for `remat` if that is on.

    Args:
      module: its class.
      static_argnums: arguments of `__call__` that are no arrays, counted without self.

    Returns:
      A class with the same parameters and results.
    """
    if not self.remat:
      return module
    return nn.remat(module, static_argnums=tuple(i + 1 for i in static_argnums))


# Every operation in the form that all backends run well enough.
PORTABLE = Compute()


def for_platform(dtype: Any = jnp.float32, platform: str | None = None) -> Compute:
  """The forms that were measured to be best on a platform.

  Args:
    dtype: compute dtype.
    platform: 'cpu', 'tpu', 'gpu' or 'cuda'; None asks `jax.default_backend()`.
      GPUs fuse the shifted adds into one kernel and leave convolutions to cuDNN, in
      the forms that XLA recognises as cuDNN's (docs/hardware.md).

  Returns:
    The platform's `Compute`.
  """
  platform = platform or jax.default_backend()
  if platform == 'cpu':
    return Compute(dtype, 'shifted_adds', 'sub_kernels', 'phases', 'shifted_inputs')
  if platform == 'tpu':
    return Compute(dtype, 'depthwise', 'dilated', 'strided', 'xla')
  return Compute(dtype, 'shifted_adds', 'adjoint', 'adjoint', 'xla')
