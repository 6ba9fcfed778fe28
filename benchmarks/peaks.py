"""What accelerators can do at best, as their makers state it: one table for all benchmarks.

TPUs: cloud.google.com/tpu/docs, system architecture of each version. Their clock is not stated
there; it is the peak over twice the multipliers that the same pages name: matrix units of 128 x
128, four in a core, one core in a v5e, two in a v4 and a v5p. Cards: NVIDIA's data sheets
of T4, V100, L4, A100, H100 and H200, dense rates, those of the SXM version where there are two.
A rate is that of matmuls as JAX computes them by default: a TPU multiplies float32 in bfloat16,
cards since Ampere in TF32. Rates of float16 are those with sums in float32. Memory and bandwidth of cards are those of `compiled.gpu_target`.
"""

import dataclasses
import math

_TERA, _GIGA = 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Peak:
  """Peak figures of one JAX device, which is a core of TPU v2 and v3, half a chip.

  Attributes:
    flops: bfloat16 operations per second; NaN where bfloat16 is emulated.
    float32_flops: float32 operations per second.
    bandwidth: bytes per second to and from its memory; NaN where not stated here.
    memory: bytes; likewise.
    float16_flops: float16 operations per second; likewise.
    clock: cycles per second of a TPU; likewise.
  """

  flops: float
  float32_flops: float
  bandwidth: float = math.nan
  memory: float = math.nan
  float16_flops: float = math.nan
  clock: float = math.nan

  def rate(self, dtype: str) -> float:
    """Operations per second in 'bfloat16', 'float16' or 'float32'; NaN where not stated here."""
    return {'bfloat16': self.flops, 'float16': self.float16_flops,
            'float32': self.float32_flops}[dtype]

  def roofline(self, flops: float, accessed: float) -> float:
    """Seconds that so many operations and bytes take at least, both at once.

    The roofline model (Williams et al. 2009): whichever of the two takes longer.
    """
    return max(flops / self.flops, accessed / self.bandwidth)


def _tpu(teraflops: float, bandwidth: float, memory: float, units: int | None = None) -> Peak:
  """A TPU with so many matrix units of 128 x 128."""
  clock = teraflops * _TERA / (2 * units * 128 * 128) if units else math.nan
  return Peak(teraflops * _TERA, teraflops * _TERA, bandwidth * _GIGA, memory * _GIGA, clock=clock)


def _card(bfloat16: float, float32: float, float16: float | None = None) -> Peak:
  """A card, whose float16 is as fast as its bfloat16 unless it is given."""
  return Peak(bfloat16 * _TERA, float32 * _TERA,
              float16_flops=(bfloat16 if float16 is None else float16) * _TERA)


TPUS = {'v4': _tpu(275, 1200, 32, 8), 'v5e': _tpu(197, 819, 16, 4),
        'v5p': _tpu(459, 2765, 95, 8), 'v6e': _tpu(918, 1638, 32)}
CARDS = {'t4': _card(math.nan, 8.1, 65), 'v100': _card(math.nan, 15.7, 125), 'l4': _card(121, 60),
         'a100': _card(312, 156), 'h100': _card(989, 494), 'h200': _card(989, 494)}
# Start of jax.Device.device_kind -> figures. The first one that fits counts.
_KINDS = {
    'TPU v2': Peak(22.5 * _TERA, 22.5 * _TERA), 'TPU v3': Peak(61.5 * _TERA, 61.5 * _TERA),
    'TPU v4': TPUS['v4'], 'TPU v5 lite': TPUS['v5e'], 'TPU v5e': TPUS['v5e'],
    'TPU v5': TPUS['v5p'], 'TPU v5p': TPUS['v5p'], 'TPU v6': TPUS['v6e'],
    'Tesla T4': CARDS['t4'], 'Tesla V100': CARDS['v100'], 'NVIDIA L4': CARDS['l4'],
    'NVIDIA A100': CARDS['a100'], 'NVIDIA H100 PCIe': _card(756, 378),
    'NVIDIA H100': CARDS['h100'], 'NVIDIA H200': CARDS['h200'],
}


def peak_flops(kind: str, dtype: str) -> float | None:
  """FLOP/s that a device can reach at most.

  Args:
    kind: `jax.Device.device_kind`.
    dtype: 'bfloat16', 'float16' or 'float32', of the operands.

  Returns:
    The rate, or None for a device or dtype that the table lacks.
  """
  for start, peak in _KINDS.items():
    # 'NVIDIA L40' is another card than 'NVIDIA L4'.
    if kind == start or kind.startswith((start + ' ', start + '-')):
      rate = peak.rate(dtype)
      return None if math.isnan(rate) else rate
  return None
