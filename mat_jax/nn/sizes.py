"""Sizes of the MAT networks at every resolution and width (no JAX)."""

import math

HEADS = 6
LATENT_SIDE = 16  # side of the map that `to_square` makes of a style


def channels(resolution: int, width: float = 1.0) -> int:
  """Channels of the convolutional layers at a map side; even and at least 8."""
  full = {512: 64, 256: 128, 128: 256}.get(resolution, 512 if resolution <= 64 else 32)
  return max(8, 2 * round(full * width / 2))


def stage1_channels(width: float = 1.0) -> int:
  """Width of stage one, 180 at full size; a multiple of twice the heads."""
  return max(2 * HEADS, 2 * HEADS * round(180 * width / (2 * HEADS)))


def num_ws(resolution: int) -> int:
  """Number of style vectors: 10 at 256, 12 at 512."""
  return 2 * int(math.log2(resolution)) - 6


def token_grid(resolution: int) -> int:
  """Side of the largest token map of stage one."""
  return min(64, resolution // 2)


def check_resolution(resolution: int) -> None:
  """Raises ValueError unless the resolution is a power of two from 32."""
  if resolution < 32 or resolution & (resolution - 1):
    raise ValueError(f'resolution {resolution} is not a power of two from 32')


def keep_mask_shapes(resolution: int, width: float = 1.0, height: int | None = None,
                     columns: int | None = None) -> dict[str, tuple[int, int, int]]:
  """Shapes, without the batch, of the keep masks of both stages.

  Args:
    resolution: native resolution of the networks.
    width: channel multiplier.
    height: of the image; None for the native resolution.
    columns: width of the image; likewise.

  Returns:
    [h, w, C] for 'first', the middle map of stage one, a quarter of the token grid, and
    'second', the lowest map of stage two.
  """
  height, columns = height or resolution, columns or resolution
  first, second = resolution // (token_grid(resolution) // 4), resolution // LATENT_SIDE
  return {
      'first': (height // first, columns // first, stage1_channels(width)),
      'second': (height // second, columns // second, channels(LATENT_SIDE, width)),
  }
