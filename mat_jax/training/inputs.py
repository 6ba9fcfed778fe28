"""What a training run is given: images, masks, and the network of its perceptual losses.

Whoever starts a run opens them (`main.py`), so that training knows neither files of images nor
files of weights.
"""

from collections.abc import Callable, Collection
import dataclasses
from typing import Protocol

import numpy as np

from mat_jax.features.vgg import Pretrained

Batch = dict[str, np.ndarray]


class Stream(Protocol):
  """Batches of `image` [N, R, R, 3] in [-1, 1] and `mask` [N, R, R, 1], without an end.

  Attributes:
    unreadable: images that the batches so far could not have.
  """

  @property
  def unreadable(self) -> Collection[int]: ...

  def __next__(self) -> Batch: ...


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The inputs of a run.

  Attributes:
    num_images: in the training set.
    open_stream: (number of the first batch, process, processes) -> the process's share of the
      batches from there on, which depend on their number alone.
    samples: `image` and `mask` of the sample grids, or None.
    features: network of the perceptual losses, or None.
  """

  num_images: int
  open_stream: Callable[[int, int, int], Stream]
  samples: Batch | None = None
  features: Pretrained | None = None
