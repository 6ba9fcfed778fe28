"""Which example stands where in a stream: pure functions of (seed, index)."""

import numpy as np
import tensorflow as tf


def global_index(
    local: tf.Tensor, local_size: int, process_index: int, process_count: int) -> tf.Tensor:
  """Maps a process's count of its own examples to the one over all processes.

  Every process has `local_size` neighbours of each global batch.
  """
  batch, place = local // local_size, local % local_size
  return (batch * process_count + process_index) * local_size + place


def shuffled(index: tf.Tensor, count: int, seed: int) -> tf.Tensor:
  """Maps an example's index to its image, each of `count` once per epoch; int64 scalars."""
  epoch, position = index // count, index % count
  # For small sets the shuffle uses the 8 lowest bits of its seeds alone, so that plain
  # numbers would repeat the order of 256 epochs before: hash them.
  order_seed = tf.random.stateless_uniform(
      (2,), [tf.constant(seed, tf.int64), epoch], None, None, tf.int64, alg='philox')
  return tf.random.experimental.index_shuffle(position, seed=order_seed, max_index=count - 1)


def hashed(*numbers: int) -> tuple[int, int, int]:
  """Returns three 64-bit seeds that look independent for any two tuples of numbers >= 0."""
  # Fixed-width words: SeedSequence would join (1, 2) and (1 + 2 * 2**32,) alike.
  words = np.asarray(numbers, np.uint64).view(np.uint32)
  return tuple(np.random.SeedSequence(words).generate_state(3, np.uint64).tolist())
