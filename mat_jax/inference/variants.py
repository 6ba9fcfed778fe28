"""Several completions of a picture: what differs between them, and how to compare them."""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from mat_jax.inference.options import InpaintOptions

# uint8 [N, H, W, 3] and the same -> N distances.
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Variant:
  """The randomness of one completion.

  Attributes:
    seed: its number, in names and messages.
    latent_seed: of the latents.
    keep_seed: of the keep masks of the style manipulation module.
    towards: seed of other latents to interpolate to, or None.
    share: how far, from 0 to 1.
  """

  seed: int
  latent_seed: int
  keep_seed: int
  towards: int | None = None
  share: float = 0.0


def variants_of(options: InpaintOptions) -> tuple[Variant, ...]:
  """The variants that options ask for, in the order of their seeds."""
  def own(seed: int, fixed: int | None) -> int:
    return seed if fixed is None else fixed

  return tuple(Variant(seed, own(seed, options.latent_seed), own(seed, options.keep_seed))
               for seed in options.all_seeds())


def between(first: int, last: int, steps: int) -> tuple[Variant, ...]:
  """The way from one completion's latents to another's, with the keep masks of the first.

  Args:
    first: seed at the beginning.
    last: seed at the end; its keep masks do not count.
    steps: number of variants, both ends included, at least 2.
  """
  if steps < 2:
    raise ValueError(f'{steps} steps; a way has two ends')
  return tuple(Variant(first, first, first, last, i / (steps - 1)) for i in range(steps))


def slerp(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
  """Spherical interpolation between latents (Shoemake 1985; White, arXiv 1609.04468).

  Args:
    a: [N, D].
    b: [N, D].
    share: [N], 0 for `a`, 1 for `b`.

  Returns:
    [N, D].
  """
  norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  cosine = np.clip(np.sum(a * b, axis=-1) / np.maximum(norms, 1e-12), -1, 1)
  angle = np.arccos(cosine)
  sine = np.sin(angle)
  is_flat = sine < 1e-6  # the same direction
  sine = np.where(is_flat, 1, sine)
  left = np.where(is_flat, 1 - share, np.sin((1 - share) * angle) / sine)
  right = np.where(is_flat, share, np.sin(share * angle) / sine)
  return (left[:, None] * a + right[:, None] * b).astype(a.dtype)


def medoid(pictures: Sequence[np.ndarray], distance: Distance) -> int:
  """The number of the picture that is closest to all others.

  Args:
    pictures: uint8 [H, W, 3] each.
    distance: LPIPS, say.
  """
  count = len(pictures)
  sums = np.zeros(count)
  for i in range(count - 1):
    others = np.stack(pictures[i + 1:])
    found = distance(np.repeat(pictures[i][None], len(others), axis=0), others)
    sums[i] += found.sum()
    sums[i + 1:] += found
  return int(np.argmin(sums))


def mean_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Mean absolute difference of pictures, [N, H, W, C] -> [N]."""
  return np.abs(a.astype(np.float32) - b).mean(axis=(1, 2, 3))


def disagreement(pictures: Sequence[np.ndarray]) -> np.ndarray:
  """How much completions differ, pixel by pixel.

  Args:
    pictures: [H, W, C] each, of one integer type.

  Returns:
    float32 [H, W]: standard deviation over the pictures, mean over the channels, as a share of the
    range of the type; 0 in kept pixels.
  """
  total = np.zeros(pictures[0].shape, np.float32)
  squares = np.zeros_like(total)
  scale = np.iinfo(pictures[0].dtype).max
  first = pictures[0].astype(np.float32) / scale
  for picture in pictures:
    change = picture.astype(np.float32) / scale - first
    total += change
    squares += np.square(change)
  count = len(pictures)
  variance = np.maximum(squares / count - np.square(total / count), 0)
  return np.sqrt(variance).mean(axis=-1)
