"""The options of inpainting, the same from Python, the command line, a config and the page."""

import dataclasses
import math
from typing import get_args

from mat_jax.errors import UserError
from mat_jax.inference.planning.plan import Strategy

STRATEGIES: tuple[str, ...] = get_args(Strategy)


@dataclasses.dataclass(frozen=True)
class InpaintOptions:
  """How the holes of a picture are filled.

  Attributes:
    seed: of the first completion; number i has seed + i.
    num_samples: completions of the picture.
    seeds: a seed for every completion, instead of `seed` and `num_samples`.
    latent_seed: one seed for the latents of all completions, which then differ by their keep masks
      alone; None takes the completion's.
    keep_seed: likewise for the keep masks of the style manipulation module.
    truncation_psi: 1 for full variety, 0 for the average style.
    strategy: what the network gets to see: 'crop', windows in the picture's own scale; 'resize',
      a shrunk picture where a hole does not fit; 'tile', where it does not fit, a coarse
      completion and then tiles in the picture's own scale; 'auto', resizing up to
      `max_enlarge` and tiles beyond it.
    context: side of a window over the longer side of its holes, at least.
    max_enlarge: how much a result may be enlarged without tiles, and without a notice.
    texture: whether a result that was enlarged, and is blurred for it, is made of patches of the
      known picture that look like it.
    seamless: whether the network's result is fitted to the colours of the kept pixels beside it.
    grain: whether to add the noise of the surroundings that the network's result lacks.
    feather: width in pixels of a soft transition, for which the network completes so many kept
      pixels too, and which changes them; 0 for none.
  """

  seed: int = 0
  num_samples: int = 1
  seeds: tuple[int, ...] = ()
  latent_seed: int | None = None
  keep_seed: int | None = None
  truncation_psi: float = 1.0
  strategy: Strategy = 'auto'
  context: float = 1.5
  max_enlarge: float = 4.0
  texture: bool = True
  seamless: bool = True
  grain: bool = True
  feather: int = 0

  def __post_init__(self):
    """Raises UserError for a value that is not possible."""
    if self.num_samples < 1:
      raise UserError(f'num_samples is {self.num_samples}; give a number >= 1')
    if self.strategy not in STRATEGIES:
      raise UserError(f'strategy is {self.strategy!r}; choose one of {", ".join(STRATEGIES)}')
    for field, least in (('context', 1), ('max_enlarge', 1), ('feather', 0)):
      if not least <= getattr(self, field) < math.inf:
        raise UserError(f'{field} is {getattr(self, field)}; give a number >= {least}')
    if not math.isfinite(self.truncation_psi):
      raise UserError(f'truncation_psi is {self.truncation_psi}; give a number, 1 for full variety, '
                      '0 for the average style')

  def all_seeds(self) -> tuple[int, ...]:
    """The seed of every completion."""
    return self.seeds or tuple(self.seed + i for i in range(self.num_samples))
