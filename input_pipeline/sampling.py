"""Which example stands where in a stream: pure functions of (seed, index)."""

import numpy as np
import tensorflow as tf


def global_indices(
    batch: int, local_size: int, process_index: int, process_count: int) -> np.ndarray:
  """Returns the indices of a process's examples in a global batch, int64 [local_size].

  Every process has `local_size` neighbours of each.
  """
  start = (batch * process_count + process_index) * local_size
  return np.arange(start, start + local_size, dtype=np.int64)


def shuffled(index: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Maps examples' indices to their images, each of `count` once per epoch; int64 [n]."""
  epochs, positions = np.divmod(index, count)
  images = np.empty_like(index)
  for epoch in np.unique(epochs):
    # For small sets the shuffle uses the 8 lowest bits of its seeds alone, so that plain
    # numbers would repeat the order of 256 epochs before: hash them.
    order_seed = np.array(hashed(seed, epoch)[:2], np.uint64).view(np.int64)
    rows = epochs == epoch
    images[rows] = tf.random.experimental.index_shuffle(
        positions[rows], seed=order_seed, max_index=count - 1)
  return images


def hashed(*numbers: int) -> tuple[int, int, int]:
  """Returns three 64-bit seeds that look independent for any two tuples of numbers >= 0."""
  # Fixed-width words: SeedSequence would join (1, 2) and (1 + 2 * 2**32,) alike.
  words = np.asarray(numbers, np.uint64).view(np.uint32)
  return tuple(np.random.SeedSequence(words).generate_state(3, np.uint64).tolist())
