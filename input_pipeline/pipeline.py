"""The tf.data pipeline: streams of batches for training and evaluation.

Nothing in a stream depends on what came before: example `index` is a pure function
of (seed, index). A training run that stops after n batches goes on with
`start_index=n`, and process p of P computes its slice of every global batch.
"""

from collections.abc import Callable, Iterator
import dataclasses
import os
import weakref

from absl import logging
import numpy as np
import tensorflow as tf

from input_pipeline import masks, portraits
from mat_jax.errors import UserError

Batch = dict[str, np.ndarray]

# Batches made ahead of the consumer: they bound the memory of a stream.
_PREFETCH = 2
# Keep the random numbers of training and of evaluation apart for equal seeds.
_TRAINING, _EVALUATION = 0, 1


@dataclasses.dataclass(frozen=True)
class _Settings:
  """How an image file and three seeds become an example."""
  resolution: int
  mask_preset: str
  hole_range: tuple[float, float]
  crop: str

  def __post_init__(self):
    masks.check_settings(self.resolution, self.mask_preset, self.hole_range)
    portraits.check_crop(self.crop)

  def example(
      self, path: str, crop_seed: int, mask_seed: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image in [-1, 1] [R, R, 3] and a mask [R, R, 1], both float32."""
    rng = np.random.Generator(np.random.Philox(key=crop_seed)) if self.crop == 'random' else None
    image = portraits.square(portraits.load_image(path), self.resolution, self.crop, rng)
    if flip:
      image = image[:, ::-1]
    mask = masks.random_mask(mask_seed, self.resolution, self.mask_preset, self.hole_range)
    return image.astype(np.float32) / 127.5 - 1, mask


def training_batches(
    files: list[str],
    *,
    resolution: int,
    batch_size: int,
    seed: int,
    start_index: int = 0,
    mask_preset: str = 'large',
    hole_range: tuple[float, float] = (0.0, 1.0),
    mirror: bool = True,
    crop: str = 'top',
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
) -> Iterator[Batch]:
  """Streams shuffled training batches without end.

  Every image comes once per epoch, in an order of its own for each epoch; batches
  run across the ends of epochs. The stream does not depend on the numbers of
  processes and threads, and starting anywhere in it takes the same short time.

  Args:
    files: image files.
    resolution: side of the squares in pixels.
    batch_size: images in a global batch, over all processes.
    seed: a number >= 0 that selects the stream.
    start_index: number of global batches already consumed.
    mask_preset: see `masks.random_mask`.
    hole_range: see `masks.random_mask`.
    mirror: whether to flip each image horizontally with probability 1/2.
    crop: see `portraits.square`.
    process_index: which contiguous slice of every global batch to make.
    process_count: number of slices, equal in size.
    num_threads: examples made at a time; None means one per CPU core.

  Returns:
    An iterator over dicts of NumPy arrays with b = batch_size / process_count:
    `image` float32 [b, resolution, resolution, 3] in [-1, 1] and `mask` float32
    [b, resolution, resolution, 1], 1 = keep, 0 = hole.

  Raises:
    UserError: no files, a wrong argument or a batch that the processes cannot
      share; from the iterator: an image that cannot be read.
  """
  settings = _Settings(resolution, mask_preset, hole_range, crop)
  local_size = _local_batch_size(files, batch_size, process_index, process_count)
  _check_at_least(0, seed=seed, start_index=start_index)
  hide_accelerators()

  def example(index: np.ndarray, file: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    crop_seed, mask_seed, flip_seed = _hash(_TRAINING, seed, index)
    flip = mirror and bool(flip_seed % 2)
    return settings.example(files[file], crop_seed, mask_seed, flip)

  def indices(local: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    index = _global_index(local, local_size, process_index, process_count)
    return index, _shuffled(index, len(files), seed)

  last = np.iinfo(np.int64).max // batch_size
  dataset = tf.data.Dataset.range(start_index * local_size, last).map(indices)
  keys = ('image', 'mask')
  return _batches(dataset, example, keys, resolution, local_size, num_threads)


def evaluation_batches(
    files: list[str],
    *,
    resolution: int,
    batch_size: int,
    masks_per_image: int = 1,
    seed: int = 0,
    mask_preset: str = 'large',
    hole_range: tuple[float, float] = (0.0, 1.0),
    crop: str = 'top',
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
  """Yields every image with each of its masks once, in order.

  Image i with its j-th mask is the same in every run with the same seed, whatever
  the batch size and the number of processes. All processes yield equally many
  batches of equal size; what is missing at the end is filled up with blank images
  (0) and masks without a hole (1).

  Args:
    files: image files.
    resolution: side of the squares in pixels.
    batch_size: examples in a global batch, over all processes.
    masks_per_image: number of masks j for each image.
    seed: a number >= 0 that selects the masks.
    mask_preset: see `masks.random_mask`.
    hole_range: see `masks.random_mask`.
    crop: see `portraits.square`.
    process_index: which contiguous slice of every global batch to make.
    process_count: number of slices, equal in size.

  Returns:
    An iterator over dicts of NumPy arrays with b = batch_size / process_count:
    `image` and `mask` as in `training_batches`, `image_index` and `mask_index`
    int32 [b] (-1 for padding), `valid` bool [b] (False for padding).

  Raises:
    UserError: as in `training_batches`.
  """
  settings = _Settings(resolution, mask_preset, hole_range, crop)
  local_size = _local_batch_size(files, batch_size, process_index, process_count)
  _check_at_least(0, seed=seed)
  _check_at_least(1, masks_per_image=masks_per_image)
  hide_accelerators()
  total = len(files) * masks_per_image

  def example(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    if image < 0:
      blank = np.zeros((resolution, resolution, 3), np.float32)
      return blank, np.ones_like(blank[..., :1]), image, mask, np.False_
    crop_seed, _, _ = _hash(_EVALUATION, seed, image)
    mask_seed, _, _ = _hash(_EVALUATION, seed, image, mask + 1)
    arrays = settings.example(files[image], crop_seed, mask_seed, flip=False)
    return *arrays, image, mask, np.True_

  def indices(local: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    index = _global_index(local, local_size, process_index, process_count)
    pair = index // masks_per_image, index % masks_per_image
    return tuple(tf.where(index < total, tf.cast(i, tf.int32), -1) for i in pair)

  num_batches = -(-total // batch_size)
  dataset = tf.data.Dataset.range(num_batches * local_size).map(indices)
  keys = ('image', 'mask', 'image_index', 'mask_index', 'valid')
  return _batches(dataset, example, keys, resolution, local_size, num_threads=None)


def hide_accelerators() -> None:
  """Keeps TensorFlow off the GPUs, whose memory JAX needs; call before any TF op."""
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:
    logging.warning('TensorFlow has been used before the pipeline and may hold GPU memory.')


def _local_batch_size(
    files: list[str], batch_size: int, process_index: int, process_count: int) -> int:
  """Checks what a process asks for and returns its share of a global batch."""
  if not files:
    raise UserError('there are no image files to read; give a folder with images')
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
        f'a batch of {batch_size} images cannot be shared by {process_count} processes; use a '
        f'multiple of {process_count}')
  if not 0 <= process_index < process_count:
    raise UserError(f'there is no process {process_index} among {process_count}; count from 0')
  return batch_size // process_count


def _global_index(
    local: tf.Tensor, local_size: int, process_index: int, process_count: int) -> tf.Tensor:
  """Maps a process's count of its own examples to the one over all processes."""
  batch, place = local // local_size, local % local_size
  return (batch * process_count + process_index) * local_size + place


def _check_at_least(minimum: int, **values: int) -> None:
  for name, value in values.items():
    if value < minimum:
      raise UserError(f'{name} is {value}; give a number >= {minimum}')


def _hash(*numbers: int) -> tuple[int, int, int]:
  """Returns three 64-bit seeds that look independent for any two tuples of numbers."""
  # Fixed-width words: SeedSequence would join (1, 2) and (1 + 2 * 2**32,) alike.
  words = np.asarray(numbers, np.uint64).view(np.uint32)
  return tuple(np.random.SeedSequence(words).generate_state(3, np.uint64).tolist())


def _shuffled(index: tf.Tensor, num_files: int, seed: int) -> tf.Tensor:
  """Maps an example's index to its file, each once per epoch; int64 scalars."""
  epoch, position = index // num_files, index % num_files
  # For small sets the shuffle uses the 8 lowest bits of its seeds alone, so that plain
  # numbers would repeat the order of 256 epochs before: hash them.
  order_seed = tf.random.stateless_uniform(
      (2,), [tf.constant(seed, tf.int64), epoch], None, None, tf.int64, alg='philox')
  return tf.random.experimental.index_shuffle(
      position, seed=order_seed, max_index=num_files - 1)


def _batches(
    dataset: tf.data.Dataset,
    example: Callable[..., tuple[np.ndarray, ...]],
    keys: tuple[str, ...],
    resolution: int,
    local_size: int,
    num_threads: int | None,
) -> Iterator[Batch]:
  """Makes the examples of a data set of index pairs, in parallel but in order."""
  specs = {
      'image': tf.TensorSpec((resolution, resolution, 3), tf.float32),
      'mask': tf.TensorSpec((resolution, resolution, 1), tf.float32),
      'image_index': tf.TensorSpec((), tf.int32),
      'mask_index': tf.TensorSpec((), tf.int32),
      'valid': tf.TensorSpec((), tf.bool),
  }
  specs = {key: specs[key] for key in keys}
  empty = tuple(np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for spec in specs.values())

  def guarded(*numbers: np.ndarray) -> tuple[np.ndarray | bytes, ...]:
    # An exception would leave tf.data as an UnknownError with a traceback for text.
    try:
      return *example(*numbers), b''
    except UserError as error:
      return *empty, str(error).encode(errors='surrogateescape')

  def tensors(*numbers: tf.Tensor) -> dict[str, tf.Tensor]:
    dtypes = [spec.dtype for spec in specs.values()]
    *values, error = tf.numpy_function(guarded, numbers, (*dtypes, tf.string))
    batch = {
        key: tf.ensure_shape(value, spec.shape)
        for (key, spec), value in zip(specs.items(), values, strict=True)
    }
    return {**batch, 'error': tf.ensure_shape(error, ())}

  num_threads = num_threads or os.cpu_count() or 1
  dataset = dataset.map(tensors, num_parallel_calls=num_threads)
  dataset = dataset.batch(local_size, drop_remainder=True).prefetch(_PREFETCH)
  options = tf.data.Options()
  options.deterministic = True
  options.threading.private_threadpool_size = num_threads
  return _arrays(dataset.with_options(options))


def _arrays(dataset: tf.data.Dataset) -> Iterator[Batch]:
  """Iterates over batches as NumPy arrays and raises the errors noted in them."""
  iterators = [dataset.as_numpy_iterator()]

  def stream():
    while iterators:
      batch = next(iterators[0], None)
      if batch is None:
        return
      for error in batch.pop('error'):
        if error:
          raise UserError(error.decode(errors='surrogateescape'))
      yield batch

  batches = stream()
  # Threads that still make examples while the interpreter shuts down would deadlock it,
  # so that the iterator has to go before, even where the caller keeps the stream.
  weakref.finalize(batches, iterators.clear)
  return batches
