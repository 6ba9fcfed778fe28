"""Peak rates of accelerators, from their makers' data sheets.

TPUs: cloud.google.com/tpu/docs, system architecture of each version. Cards: NVIDIA's data sheets
of T4, V100, L4, A100, H100 and H200, dense rates, those of the SXM version where there are two.
A rate is that of matmuls at JAX's default precision: a TPU multiplies float32 in
bfloat16, cards since Ampere in TF32.
"""

_TERA = 1e12
# Start of jax.Device.device_kind -> FLOP/s per JAX device in (bfloat16, float32). The first one
# that fits counts. A JAX device is a core of TPU v2 and v3, half a chip.
_PEAKS = {
    'TPU v2': (22.5, 22.5), 'TPU v3': (61.5, 61.5), 'TPU v4': (275, 275),
    'TPU v5 lite': (197, 197), 'TPU v5e': (197, 197), 'TPU v5': (459, 459), 'TPU v5p': (459, 459),
    'TPU v6': (918, 918),
    'Tesla T4': (None, 8.1), 'Tesla V100': (None, 15.7), 'NVIDIA L4': (121, 60),
    'NVIDIA A100': (312, 156), 'NVIDIA H100 PCIe': (756, 378), 'NVIDIA H100': (989, 494),
    'NVIDIA H200': (989, 494),
}


def peak(kind: str, dtype: str) -> float | None:
  """FLOP/s that a device can reach at most.

  Args:
    kind: `jax.Device.device_kind`.
    dtype: 'bfloat16' or 'float32', of the operands.

  Returns:
    The rate, or None for a device or dtype that the table lacks.
  """
  for start, rates in _PEAKS.items():
    # 'NVIDIA L40' is another card than 'NVIDIA L4'.
    if kind == start or kind.startswith((start + ' ', start + '-')):
      rate = rates[('bfloat16', 'float32').index(dtype)]
      return None if rate is None else rate * _TERA
  return None
