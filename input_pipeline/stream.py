"""From a function that makes a batch to an iterator over batches."""

import collections
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import json
import os
import weakref

from absl import logging
import numpy as np
import tensorflow as tf

from mat_jax.errors import UserError

Batch = dict[str, np.ndarray]
# Position of an image -> what is wrong with it.
Unreadable = dict[int, str]

# Batches made ahead of the consumer: they bound the memory of a stream.
_PREFETCH = 2
# Unused arrays of a shape that are kept for the next batches.
_MAX_FREE = 8
# TensorFlow takes arrays over without a copy when they begin at such an address.
_ALIGNMENT = 64
# A larger share of unreadable images is a damaged data set, not an accident.
_MAX_UNREADABLE = 0.01


class Stream(Iterator[Batch]):
  """An iterator over batches that counts unreadable images.

  Attributes:
    unreadable: the images that could not be read so far.
  """

  def __init__(
      self,
      make: Callable[[int], tuple[Batch, Unreadable]],
      start: int,
      stop: int,
      spec: Mapping[str, tf.TensorSpec],
      num_images: int,
  ):
    """Starts to make batches, in order, a few ahead of the consumer.

    Args:
      make: called with the number of a batch, from several threads; returns the batch
        and what could not be read. A `UserError` ends the stream.
      start: number of the first batch.
      stop: number behind the last one.
      spec: shapes and dtypes of the batch.
      num_images: that the batches are made from.
    """
    self.unreadable: Unreadable = {}
    self._num_images = num_images
    # TensorFlow never forgets a function; this one has to lose its threads and memory.
    makers = [make]
    dataset = tf.data.Dataset.range(start, stop).map(
        _in_graph(makers, spec), num_parallel_calls=_PREFETCH)
    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.prefetch(_PREFETCH).with_options(options)
    # Threads that still make examples while the interpreter shuts down would deadlock it,
    # so that the iterator has to go before, even where the caller keeps the stream.
    self._iterators = [dataset.as_numpy_iterator()]
    weakref.finalize(self, _clear, self._iterators, makers)

  def __next__(self) -> Batch:
    """Returns the next batch; UserError for a wrong mask or too many unreadable images."""
    if not self._iterators:
      raise StopIteration
    batch = next(self._iterators[0])
    error = batch.pop('error').decode(errors='surrogateescape')
    if error:
      raise UserError(error)
    self._note(json.loads(batch.pop('unreadable')))
    return batch

  def _note(self, unreadable: dict[str, str]) -> None:
    """Logs images that were not noted before; fails when they are too many."""
    for position, message in unreadable.items():
      if int(position) not in self.unreadable:
        self.unreadable[int(position)] = message
        logging.warning('Skipping one of %d images: %s.', self._num_images, message)
    if is_too_many(len(self.unreadable), self._num_images):
      raise UserError(
          f'{len(self.unreadable)} of {self._num_images} images cannot be read, more than '
          f'{_MAX_UNREADABLE:.0%}: {next(iter(self.unreadable.values()))}')


def is_too_many(unreadable: int, num_images: int) -> bool:
  """Whether there are too many unreadable images."""
  return unreadable > _MAX_UNREADABLE * num_images


def _clear(*lists: list) -> None:
  for part in lists:
    part.clear()


def _in_graph(
    makers: list[Callable[[int], tuple[Batch, Unreadable]]], spec: Mapping[str, tf.TensorSpec]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
  """Wraps a function for tf.data, with its errors as data; none is there after the end."""
  def call(number: np.ndarray) -> list[np.ndarray | bytes]:
    # An exception would leave tf.data as an UnknownError with a traceback for text.
    try:
      make = next(iter(makers), None)
      if make is None:
        raise UserError('the stream has ended')
      batch, unreadable = make(int(number))
      return [*(batch[key] for key in spec), json.dumps(unreadable).encode(), b'']
    except UserError as error:
      empty = (np.zeros(part.shape, part.dtype.as_numpy_dtype) for part in spec.values())
      return [*empty, b'{}', str(error).encode(errors='surrogateescape')]

  def tensors(number: tf.Tensor) -> dict[str, tf.Tensor]:
    dtypes = [part.dtype for part in spec.values()]
    *values, unreadable, error = tf.numpy_function(call, [number], (*dtypes, tf.string, tf.string))
    batch = {key: tf.ensure_shape(value, part.shape)
             for (key, part), value in zip(spec.items(), values, strict=True)}
    return {**batch, 'unreadable': unreadable, 'error': error}

  return tensors


class Buffers:
  """Float32 arrays whose memory is used again once nobody holds them any more.

  Fresh memory for every batch would cost as much as a part of the decoding. Safe to
  call from many threads.
  """

  def __init__(self) -> None:
    self._free: dict[tuple[int, ...], list[np.ndarray]] = collections.defaultdict(list)

  def empty(self, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array with any content, which TensorFlow takes over without a copy."""
    free = self._free[shape]
    try:
      buffer = free.pop()
    except IndexError:
      buffer = _aligned_empty(shape)
    # The view dies when the tensor and all arrays that share its memory are gone.
    view = buffer[...]
    weakref.finalize(view, _keep, free, buffer).atexit = False
    return view


def _keep(free: list[np.ndarray], buffer: np.ndarray) -> None:
  if len(free) < _MAX_FREE:
    free.append(buffer)


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
  size = int(np.prod(shape))
  memory = np.empty(size + _ALIGNMENT // 4, np.float32)
  start = -memory.ctypes.data % _ALIGNMENT // 4
  return memory[start:start + size].reshape(shape)


class ImageLoader:
  """Loads the images of batches on many threads at a time."""

  def __init__(self, num_threads: int | None = None):
    """Makes the threads; None for one per CPU core."""
    self._pool = futures.ThreadPoolExecutor(num_threads or os.cpu_count() or 1, 'images')

  def start(self, load: Callable[[int], np.ndarray | None],
            out: np.ndarray) -> Callable[[], None]:
    """Begins to load the images of a batch.

    Args:
      load: called with 0 .. n - 1 from several threads; returns uint8 [resolution,
        resolution, 3], or None for a blank image.
      out: float32 [n, resolution, resolution, 3]; where the images go, in [-1, 1],
        blank ones 0.

    Returns:
      A function that waits until they are there.
    """
    def fill(i: int) -> None:
      image, values = load(i), out[i]
      if image is None:
        values.fill(0)
        return
      values[...] = image
      values /= 127.5
      values -= 1

    tasks = [self._pool.submit(fill, i) for i in range(len(out))]

    def wait() -> None:
      for task in tasks:
        task.result()

    return wait
