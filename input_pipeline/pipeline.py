"""The tf.data pipeline: streams of batches for training and evaluation.

Nothing in a stream depends on what came before: example `index` is a pure function
of (seed, index). A training run that stops after n batches goes on with
`start_index=n`, and process p of P computes its slice of every global batch.
"""

import dataclasses

from absl import logging
import numpy as np
import tensorflow as tf

from input_pipeline.image_dataset import ImageDataset
from input_pipeline.mask_files import Masks, Requests
from input_pipeline.sampling import global_indices, hashed, shuffled
from input_pipeline.stream import (
  Batch,
  Buffers,
  ImageLoader,
  Stream,
  Unreadable,
  is_too_many,
)
from mat_jax.errors import UserError
from mat_jax.runtime import images

# Different random numbers for training and evaluation with equal seeds.
_TRAINING, _EVALUATION = 0, 1


def training_batches(
    portraits: ImageDataset,
    masks: Masks,
    *,
    resolution: int,
    batch_size: int,
    seed: int,
    start_index: int = 0,
    mirror: bool = True,
    crop: str = 'top',
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
) -> Stream:
  """Streams shuffled training batches without end.

  Every image comes once per epoch, in an order of its own for each epoch; batches
  run across the ends of epochs. The stream does not depend on the numbers of
  processes and threads, and starting anywhere in it takes the same short time. The
  next readable image replaces one that cannot be read.

  Args:
    portraits: image data set.
    masks: of the same resolution; see `mask_files`.
    resolution: side of the squares in pixels.
    batch_size: images in a global batch, over all processes.
    seed: a number >= 0 that selects the stream.
    start_index: number of global batches already consumed.
    mirror: whether to flip each image horizontally with probability 1/2.
    crop: see `images.square`.
    process_index: which contiguous slice of every global batch to make.
    process_count: number of slices, equal in size.
    num_threads: images made at a time; None means one per CPU core.

  Returns:
    An iterator over dicts of NumPy arrays with b = batch_size / process_count:
    `image` float32 [b, resolution, resolution, 3] in [-1, 1] and `mask` float32
    [b, resolution, resolution, 1], 1 = keep, 0 = hole.

  Raises:
    UserError: no images, a wrong argument or a batch that the processes cannot
      share; from the iterator: more than 1 % of the images unreadable, no mask.
  """
  _check_at_least(0, start_index=start_index)
  maker = _TrainingBatches(
      portraits, masks, resolution, batch_size, seed, crop, process_index, process_count,
      num_threads, mirror=mirror)
  last = np.iinfo(np.int64).max // batch_size
  return Stream(maker.make, start_index, last, maker.spec, len(portraits))


def evaluation_batches(
    portraits: ImageDataset,
    masks: Masks,
    *,
    resolution: int,
    batch_size: int,
    masks_per_image: int = 1,
    seed: int = 0,
    crop: str = 'top',
    process_index: int = 0,
    process_count: int = 1,
) -> Stream:
  """Yields every image with each of its masks once, in order.

  Image i with its j-th mask is the same in every run with the same seed, whatever
  the batch size and the number of processes. All processes yield equally many
  batches of equal size; the last ones are padded with blank images
  (0) and masks without a hole (1).

  Args:
    portraits: image data set.
    masks: of the same resolution; see `mask_files`.
    resolution: side of the squares in pixels.
    batch_size: examples in a global batch, over all processes.
    masks_per_image: number of masks j for each image.
    seed: a number >= 0 that selects the masks.
    crop: see `images.square`.
    process_index: which contiguous slice of every global batch to make.
    process_count: number of slices, equal in size.

  Returns:
    An iterator over dicts of NumPy arrays with b = batch_size / process_count:
    `image` and `mask` as in `training_batches`, `image_index` and `mask_index`
    int32 [b] (-1 for padding), `valid` bool [b] (False for padding and for images
    that cannot be read).

  Raises:
    UserError: as in `training_batches`.
  """
  _check_at_least(1, masks_per_image=masks_per_image)
  maker = _EvaluationBatches(
      portraits, masks, resolution, batch_size, seed, crop, process_index, process_count,
      masks_per_image=masks_per_image)
  vectors = {'image_index': tf.int32, 'mask_index': tf.int32, 'valid': tf.bool}
  spec = maker.spec | {
      key: tf.TensorSpec((maker.local_size,), dtype) for key, dtype in vectors.items()}
  num_batches = -(-maker.total // batch_size)
  return Stream(maker.make, 0, num_batches, spec, len(portraits))


@dataclasses.dataclass
class _Batches:
  """Base class of the makers of batches; see `training_batches` for the fields."""

  portraits: ImageDataset
  masks: Masks
  resolution: int
  batch_size: int
  seed: int
  crop: str
  process_index: int
  process_count: int
  num_threads: int | None = None

  def __post_init__(self):
    images.check_crop(self.crop)
    _check_at_least(0, seed=self.seed)
    self.count = len(self.portraits)
    self.local_size = _local_batch_size(
        self.count, self.batch_size, self.process_index, self.process_count)
    self.spec = {
        key: tf.TensorSpec((self.local_size, self.resolution, self.resolution, channels),
                           tf.float32) for key, channels in (('image', 3), ('mask', 1))}
    self.loader, self._buffers = ImageLoader(self.num_threads), Buffers()
    hide_accelerators()

  def index(self, number: int) -> np.ndarray:
    """Returns the indices of a batch's examples; int64 [local_size]."""
    return global_indices(number, self.local_size, self.process_index, self.process_count)

  def empty(self) -> Batch:
    """Returns a batch to write into."""
    return {key: self._buffers.empty(part.shape) for key, part in self.spec.items()}

  def load(self, position: int, crop_seed: int) -> np.ndarray:
    """Loads an image as a square; `UserError` if it cannot be read."""
    rng = None
    if self.crop == 'random_crop':
      rng = np.random.Generator(np.random.Philox(key=crop_seed))
    return self.portraits.load(position, self.resolution, self.crop, rng)


@dataclasses.dataclass
class _TrainingBatches(_Batches):
  """Makes the batches of `training_batches`."""

  mirror: bool = True

  def make(self, number: int) -> tuple[Batch, Unreadable]:
    """Makes the batch of a number."""
    index = self.index(number)
    position = shuffled(index, self.count, self.seed)
    seeds = [hashed(_TRAINING, self.seed, i) for i in index]
    unreadable: Unreadable = {}

    def load(i: int) -> np.ndarray | None:
      crop_seed, _, flip_seed = seeds[i]
      image, problems = self._load_next(int(position[i]), crop_seed)
      unreadable.update(problems)
      return image[:, ::-1] if image is not None and self.mirror and flip_seed % 2 else image

    batch = self.empty()
    wait_for_images = self.loader.start(load, batch['image'])
    mask_seeds = np.array([mask_seed for _, mask_seed, _ in seeds], np.uint64)
    self.masks(Requests(mask_seeds, position, index // self.count, index), batch['mask'])
    wait_for_images()
    return batch, unreadable

  def _load_next(self, position: int, crop_seed: int) -> tuple[np.ndarray | None, Unreadable]:
    """Loads an image or the next one that can be read, None where too many cannot."""
    unreadable: Unreadable = {}
    while not is_too_many(len(unreadable), self.count):
      candidate = (position + len(unreadable)) % self.count
      try:
        return self.load(candidate, crop_seed), unreadable
      except UserError as error:
        unreadable[candidate] = str(error)
    return None, unreadable


@dataclasses.dataclass
class _EvaluationBatches(_Batches):
  """Makes the batches of `evaluation_batches`."""

  masks_per_image: int = 1

  @property
  def total(self) -> int:
    """Number of pairs of image and mask."""
    return self.count * self.masks_per_image

  def make(self, number: int) -> tuple[Batch, Unreadable]:
    """Makes the batch of a number."""
    index = self.index(number)
    valid = index < self.total
    image, mask = (np.where(valid, part, -1) for part in np.divmod(index, self.masks_per_image))
    unreadable: Unreadable = {}

    def load(i: int) -> np.ndarray | None:
      if not valid[i]:
        return None
      try:
        return self.load(int(image[i]), hashed(_EVALUATION, self.seed, image[i])[0])
      except UserError as error:
        unreadable[int(image[i])] = str(error)
        return None

    batch = self.empty()
    wait_for_images = self.loader.start(load, batch['image'])
    size = np.count_nonzero(valid)  # padding comes last
    self.masks(self._requests(image[:size], mask[:size]), batch['mask'][:size])
    batch['mask'][size:] = 1
    wait_for_images()
    batch |= {'image_index': image.astype(np.int32), 'mask_index': mask.astype(np.int32),
              'valid': valid & ~np.isin(image, list(unreadable))}
    return batch, unreadable

  def _requests(self, image: np.ndarray, mask: np.ndarray) -> Requests:
    seeds = [hashed(_EVALUATION, self.seed, i, j + 1)[0]
             for i, j in zip(image, mask, strict=True)]
    return Requests(np.array(seeds, np.uint64), image, mask, mask * self.count + image)


def _local_batch_size(
    count: int, batch_size: int, process_index: int, process_count: int) -> int:
  """Checks what a process asks for and returns its share of a global batch."""
  if not count:
    raise UserError('there are no images to read; give a folder with images')
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
        f'a batch of {batch_size} images cannot be shared by {process_count} processes; use a '
        f'multiple of {process_count}')
  if not 0 <= process_index < process_count:
    raise UserError(f'there is no process {process_index} among {process_count}; count from 0')
  return batch_size // process_count


def _check_at_least(minimum: int, **values: int) -> None:
  for name, value in values.items():
    if value < minimum:
      raise UserError(f'{name} is {value}; give a number >= {minimum}')


def hide_accelerators() -> None:
  """Keeps TensorFlow off the GPUs, whose memory JAX needs; call before any TF op."""
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:
    logging.warning('TensorFlow has been used before the pipeline and may hold GPU memory.')
