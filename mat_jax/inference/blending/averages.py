"""Local averages of a part of a picture."""

import numpy as np
from scipy import ndimage


def average_over(picture: np.ndarray, area: np.ndarray,
                 sigma: float) -> tuple[np.ndarray, np.ndarray]:
  """Gaussian average over the pixels of an area.

  Args:
    picture: float [H, W, C] of any range; read in the area only.
    area: bool [H, W].
    sigma: standard deviation in pixels; weights end at three of them.

  Returns:
    The average [H, W, C], 0 where no pixel of the area is near; and the share [H, W] of the
    weights that lie in the area, from 0 to 1.
  """
  coverage, sums = (
      ndimage.gaussian_filter(values, sigma, axes=(0, 1), mode='constant', truncate=3)
      for values in (area.astype(np.float32), np.where(area[..., None], picture, 0)))
  return sums / np.maximum(coverage, 1e-3)[..., None], coverage
