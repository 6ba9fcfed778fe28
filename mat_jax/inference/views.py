"""What the network gets to see of a window: resized, with nothing of the hole in it."""

import numpy as np
from PIL import Image


def resize(array: np.ndarray, side: int, method: Image.Resampling) -> np.ndarray:
  """Antialiased resize of float32 [H, W, C] to a square."""
  channels = [np.asarray(Image.fromarray(array[..., c], 'F').resize((side, side), method))
              for c in range(array.shape[2])]
  return np.stack(channels, axis=-1)


def shrink_known(image: np.ndarray, known: np.ndarray,
                 side: int) -> tuple[np.ndarray, np.ndarray]:
  """Resizes a view so that nothing of the hole leaks into what counts as known.

  Args:
    image: float32 [S, S, 3].
    known: float32 [S, S, 1], 1 = known.
    side: target.

  Returns:
    Image and mask of that side; a pixel is known when all its sources are.
  """
  if len(image) == side:
    return image * known, known
  weight = resize(known, side, Image.Resampling.BILINEAR)
  mask = (resize(known, side, Image.Resampling.BOX) > 1 - 1e-3).astype(np.float32)
  blurred = resize(image * known, side, Image.Resampling.BILINEAR)
  return blurred / np.maximum(weight, 1e-3) * mask, mask


def enlarge(result: np.ndarray, side: int) -> np.ndarray:
  """The network's result at the size of the window, float32 [side, side, 3]."""
  return result if len(result) == side else resize(result, side, Image.Resampling.BICUBIC)
