"""NVIDIA cards to compile for without having one."""

import dataclasses
import math
import os
import re

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks.peaks import CARDS
from mat_jax.errors import UserError
from mat_jax.runtime import sharding

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'gpu_targets')
INSTALL = "pip install -e '.[gpu-aot]'"

NAMES = ('h100', 'a100', 't4')


@dataclasses.dataclass(frozen=True)
class Target:
  """A card.

  Attributes:
    name: 'h100', 'a100' or 't4'.
    text: its GpuTargetConfigProto in text form.
    peaks: FLOP/s of matmuls by HLO dtype.
    memory: bytes.
    bandwidth: of the memory, bytes/s.
  """

  name: str
  text: str
  peaks: dict[str, float]
  memory: int
  bandwidth: float


def read(name: str) -> Target:
  """The card of a name in `NAMES`."""
  with open(os.path.join(_FOLDER, f'{name}.txtpb'), encoding='utf-8') as file:
    text = file.read()

  def number(field: str) -> int:
    found = re.search(rf'\b{field}: (\d+)', text)
    assert found is not None, field
    return int(found.group(1))

  peak = CARDS[name]
  peaks = {'bf16': peak.flops, 'f16': peak.float16_flops, 'f32': peak.float32_flops}
  return Target(name, text, {dtype: rate for dtype, rate in peaks.items() if not math.isnan(rate)},
                number('device_memory_size'), number('memory_bandwidth'))


def mesh(target: Target, devices: int) -> Mesh:
  """A mesh of cards on one host that exist for the compiler alone.

  Args:
    target: the card.
    devices: their number.

  Raises:
    UserError: the CUDA plugin of JAX is not installed.
  """
  try:
    topology = topologies.get_topology_desc(
        platform='cuda', topology=f'1x1x{devices}', target_config=target.text)
  except (RuntimeError, ValueError, NotImplementedError) as error:
    raise UserError(f'compiling for NVIDIA cards needs the CUDA plugin of jax {jax.__version__}; '
                    f'install it with {INSTALL} ({error})') from error
  return sharding.make_mesh(topology.devices)
