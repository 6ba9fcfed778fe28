"""Peak rates of TPU chips, as stated by their vendor."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak figures of one chip.

  Attributes:
    flops: bfloat16 operations per second.
    bandwidth: bytes per second to and from its memory.
    memory: bytes.
  """

  flops: float
  bandwidth: float
  memory: float

  def roofline(self, flops: float, accessed: float) -> float:
    """Seconds that so many operations and bytes take at least, both at once.

    The roofline model (Williams et al. 2009): whichever of the two takes longer.
    """
    return max(flops / self.flops, accessed / self.bandwidth)


# Google Cloud's documentation, "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e", peak compute per
# chip (bf16), HBM bandwidth and HBM capacity.
TPUS = {
    'v4': Chip(275e12, 1200e9, 32e9),
    'v5e': Chip(197e12, 819e9, 16e9),
    'v5p': Chip(459e12, 2765e9, 95e9),
    'v6e': Chip(918e12, 1638e9, 32e9),
}
