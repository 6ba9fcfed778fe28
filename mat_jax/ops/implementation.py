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
# That of their operands.
OPERAND = 'operand'


@dataclasses.dataclass(frozen=True)
class Implementation:
  """The dtype of activations and one implementation of each heavy operation.

  Attributes:
    dtype: dtype of activations and of the operands of matmuls and convolutions; parameters,
      statistics and demodulation stay float32.
    fir: the [1, 3, 3, 1] filter as 'shifted_adds' along each axis, as a sum of 'taps' of both
      axes at once (`mat_jax.ops.fir_taps`) or as one 'depthwise' 4x4 convolution.
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
    equalized: the factor of the equalised learning rate on the 'results' of convolutions and dense
      layers, or on their 'kernels', so that the gradient of a result is that of the convolution; in
      float16 always on the results.
    elementwise: what surrounds convolutions and matmuls, 'plain' as XLA fuses it and JAX derives it,
      or 'lean', in few kernels that read few maps (`mat_jax.ops.lean`): modulation and
      demodulation (not in float16), convolutions of few channels, and ReLU and pooling of the
      perceptual network.
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
  fir: Literal['shifted_adds', 'taps', 'depthwise'] = 'shifted_adds'
  upsample_conv: Literal['sub_kernels', 'dilated', 'adjoint'] = 'dilated'
  downsample_conv: Literal['polyphase', 'strided', 'adjoint'] = 'strided'
  weight_gradient: Literal['strips', 'xla'] = 'xla'
  pointwise: Literal['matmul', 'convolution'] = 'matmul'
  equalized: Literal['results', 'kernels'] = 'results'
  elementwise: Literal['plain', 'lean'] = 'plain'
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

  def block(self, module: type[nn.Module], static_argnums: tuple[int, ...] = (),
            modulated: bool = False) -> Any:
    """The class of a block, wrapped for `remat` if that is on, or for lean derivatives.

    Args:
      module: its class.
      static_argnums: arguments of `__call__` that are no arrays, counted without self.
      modulated: whether it consists of modulated convolutions.

    Returns:
      A class with the same parameters and results.
    """
    static_argnums = tuple(i + 1 for i in static_argnums)
    if self.remat:
      return nn.remat(module, static_argnums=static_argnums)
    if not (modulated and self.has_lean_modulation):
      return module
    # What lies between convolutions is computed again in the kernels that need it. Otherwise XLA
    # saves it in float32, and the signs of activations beside it.
    policy = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, OPERAND)
    return nn.remat(module, policy=policy, static_argnums=static_argnums)

  @property
  def is_lean(self) -> bool:
    """Whether to use `mat_jax.ops.lean`."""
    return self.elementwise == 'lean'

  @property
  def has_lean_modulation(self) -> bool:
    """Whether to use its modulated convolutions."""
    return self.is_lean and self.dtype != jnp.float16


# The implementations that all backends run well enough.
PORTABLE = Implementation()


def for_platform(dtype: Any = jnp.float32, platform: str | None = None) -> Implementation:
  """The implementations that were measured to be best on a platform.

  Args:
    dtype: compute dtype.
    platform: 'cpu', 'tpu', 'gpu' or 'cuda'; None asks `jax.default_backend()`.
      GPUs leave convolutions to cuDNN, in the shapes that XLA recognises as cuDNN's
      (docs/hardware.md). 'compact' are those that compile fastest, for small models on a CPU.

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
  if platform == 'compact':
    return Implementation(dtype, 'shifted_adds', 'adjoint', 'adjoint', 'xla')
  return Implementation(dtype, 'taps', 'adjoint', 'adjoint', 'xla', equalized='kernels',
                        elementwise='lean')
