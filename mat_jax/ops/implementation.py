"""The implementation of the heavy operations: dtype, algorithm, memory layout, remat policy.

CPU and TPU want opposite implementations of the same functions (docs/performance.md lists them),
so the choice is made once, here, and handed down to every layer as one immutable value.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Literal

from flax import linen as nn
import jax
import jax.numpy as jnp

# The checkpoint name of the results of convolutions.
CONVOLUTION = 'convolution'


@dataclasses.dataclass(frozen=True)
class Implementation:
  """The dtype of activations and one implementation of each heavy operation.

  Attributes:
    dtype: dtype of activations and of the operands of matmuls and convolutions; parameters,
      statistics and demodulation stay float32.
    fir: the [1, 3, 3, 1] filter as 'shifted_adds' along each axis or as one
      'depthwise' 4x4 convolution.
    upsample_conv: a k3 convolution after 2x zero insertion as four
      'sub_kernels' on the small map, as a 'dilated' convolution or as the 'adjoint'
      of a strided one.
    downsample_conv: a k3 convolution of stride 2 as four convolutions over the
      input's 'polyphase' components, as one 'strided' convolution or as one whose derivatives
      are its 'adjoint's (`mat_jax.ops.strided`).
    weight_gradient: the kernel gradient of stride-1 convolutions as matmuls over
      'strips' of rows, or by 'xla'.
    pointwise: a k1 convolution as a 'matmul' or as a 'convolution', which keeps the
      layout of its neighbours on a TPU.
    images: the memory layout of images, maps of a few channels: 'any', left to XLA, or 'planes',
      channel first, which a k1 convolution to an image then computes as a matmul. Left to itself,
      XLA takes the layout of the surrounding convolutions, with the batch in the TPU's 128 lanes:
      eight images then take the memory of 128.
    folded_channels: the discriminator computes maps of at most so many channels with pairs of
      columns as channels (`mat_jax.ops.folded`), which fill a TPU's 128 lanes.
    attention_tokens: window packing: neighbouring windows are computed together up to this many
      tokens, with an attention mask between them, as a TPU pads rows of logits to its 128 lanes
      anyway.
    attention: window attention as 'matmuls' that XLA compiles, or as one TPU 'kernel'
      (`mat_jax.ops.window_kernel`) inside shard_map, as in training.
    remat_policy: which residuals a network saves for its backward pass: 'all', or the results of
      its 'convolutions' alone, from which the rest is recomputed: scaling, bias, activation,
      filter and attention, a few per cent of the work.
    remat: every block recomputes its activations, those of convolutions too, in the backward
      pass instead of saving them (arXiv 1604.06174).
    inference: whether a 'batch' is completed at once or 'image' by image, which makes better use
      of a CPU's caches.
    normal: standard deviation -> initializer of weights that are normally distributed; see
      `train_state.fresh_variables`, which samples all of them at once.
  """

  dtype: Any = jnp.float32
  fir: Literal['shifted_adds', 'depthwise'] = 'shifted_adds'
  upsample_conv: Literal['sub_kernels', 'dilated', 'adjoint'] = 'dilated'
  downsample_conv: Literal['polyphase', 'strided', 'adjoint'] = 'strided'
  weight_gradient: Literal['strips', 'xla'] = 'xla'
  pointwise: Literal['matmul', 'convolution'] = 'matmul'
  images: Literal['any', 'planes'] = 'any'
  folded_channels: int = 0
  attention_tokens: int = 1
  attention: Literal['matmuls', 'kernel'] = 'matmuls'
  remat_policy: Literal['all', 'convolutions'] = 'all'
  remat: bool = False
  inference: Literal['batch', 'image'] = 'batch'
  normal: Callable[[float], nn.initializers.Initializer] = nn.initializers.normal

  def network(self, module: type[nn.Module], static_argnums: tuple[int, ...] = ()) -> Any:
    """The class of a network, wrapped for `remat_policy`.

    Args:
      module: its class.
      static_argnums: arguments of `__call__` that are no arrays, counted without self.

    Returns:
      A class with the same parameters and results.
    """
    if self.remat_policy == 'all' or self.remat:
      return module
    policy = jax.checkpoint_policies.save_only_these_names(CONVOLUTION)
    return nn.remat(module, policy=policy, static_argnums=tuple(i + 1 for i in static_argnums))

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


# The implementations that all backends run well enough.
PORTABLE = Implementation()


def for_platform(dtype: Any = jnp.float32, platform: str | None = None) -> Implementation:
  """The implementations that were measured to be best on a platform.

  Args:
    dtype: compute dtype.
    platform: 'cpu', 'tpu', 'gpu' or 'cuda'; None asks `jax.default_backend()`.
      GPUs fuse the shifted adds into one kernel and leave convolutions to cuDNN, in
      the shapes that XLA recognises as cuDNN's (docs/hardware.md).

  Returns:
    The platform's `Implementation`.
  """
  platform = platform or jax.default_backend()
  if platform == 'cpu':
    return Implementation(dtype, 'shifted_adds', 'sub_kernels', 'polyphase', 'strips',
                          remat_policy='convolutions', inference='image')
  if platform == 'tpu':
    return Implementation(dtype, 'depthwise', 'adjoint', 'strided', 'xla', pointwise='convolution',
                          images='planes', folded_channels=64, attention_tokens=128,
                          attention='kernel')
  return Implementation(dtype, 'shifted_adds', 'adjoint', 'adjoint', 'xla')
