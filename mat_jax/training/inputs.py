"""The inputs of a training run: images, masks, and the network of its perceptual losses.

`main.py` opens them, so that `mat_jax.training` depends neither on image files nor on weight
files.
"""

from collections.abc import Callable, Collection
import dataclasses
from typing import Protocol

import numpy as np

from mat_jax.features.vgg import Pretrained

Batch = dict[str, np.ndarray]


class Stream(Protocol):
  """Infinite batches of `image` [N, R, R, 3] in [-1, 1] and `mask` [N, R, R, 1].

  Attributes:
    unreadable: images that could not be read so far.
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
      batches from there on; a batch depends on its number alone.
    samples: `image` and `mask` of the sample grids, or None.
    features: network of the perceptual losses, or None.
  """

  num_images: int
  open_stream: Callable[[int, int, int], Stream]
  samples: Batch | None = None
  features: Pretrained | None = None
