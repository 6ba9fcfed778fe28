"""The tf.data pipeline: streams of batches for training and evaluation.

Nothing in a stream depends on what came before: example `index` is a pure function
of (seed, index). A training run that stops after n batches goes on with
`start_index=n`, and process p of P computes its slice of every global batch.
"""

from absl import logging
import numpy as np
import tensorflow as tf

from input_pipeline import images
from input_pipeline.mask_files import Masks, Requests
from input_pipeline.portraits import Portraits
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

# Keep the random numbers of training and of evaluation apart for equal seeds.
_TRAINING, _EVALUATION = 0, 1


def training_batches(
    portraits: Portraits,
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
  next image that can be read stands in for one that cannot.

  Args:
    portraits: images.
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
  images.check_crop(crop)
  local_size = _local_batch_size(portraits, batch_size, process_index, process_count)
  _check_at_least(0, seed=seed, start_index=start_index)
  hide_accelerators()
  count = len(portraits)
  spec = _spec(local_size, resolution)
  loader, buffers = ImageLoader(num_threads), Buffers()

  def make(number: int) -> tuple[Batch, Unreadable]:
    index = global_indices(number, local_size, process_index, process_count)
    image = shuffled(index, count, seed)
    seeds = [hashed(_TRAINING, seed, i) for i in index]
    unreadable: Unreadable = {}

    def load(i: int) -> np.ndarray | None:
      crop_seed, _, flip_seed = seeds[i]
      loaded, problems = _load_next(portraits, int(image[i]), resolution, crop, crop_seed)
      unreadable.update(problems)
      return loaded[:, ::-1] if loaded is not None and mirror and flip_seed % 2 else loaded

    batch = {key: buffers.empty(part.shape) for key, part in spec.items()}
    wait_for_images = loader.start(load, batch['image'])
    mask_seeds = np.array([mask_seed for _, mask_seed, _ in seeds], np.uint64)
    masks(Requests(mask_seeds, image, index // count, index), batch['mask'])
    wait_for_images()
    return batch, unreadable

  last = np.iinfo(np.int64).max // batch_size
  return Stream(make, start_index, last, spec, count)


def _load_next(
    portraits: Portraits, image: int, resolution: int, crop: str, crop_seed: int
) -> tuple[np.ndarray | None, Unreadable]:
  """Loads an image or the next one that can be read, None where too many cannot."""
  unreadable: Unreadable = {}
  while not is_too_many(len(unreadable), len(portraits)):
    position = (image + len(unreadable)) % len(portraits)
    try:
      return portraits.load(position, resolution, crop, _rng(crop, crop_seed)), unreadable
    except UserError as error:
      unreadable[position] = str(error)
  return None, unreadable


def evaluation_batches(
    portraits: Portraits,
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
  batches of equal size; what is missing at the end is filled up with blank images
  (0) and masks without a hole (1).

  Args:
    portraits: images.
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
  images.check_crop(crop)
  local_size = _local_batch_size(portraits, batch_size, process_index, process_count)
  _check_at_least(0, seed=seed)
  _check_at_least(1, masks_per_image=masks_per_image)
  hide_accelerators()
  count = len(portraits)
  total = count * masks_per_image
  spec = _spec(local_size, resolution)
  loader, buffers = ImageLoader(), Buffers()

  def make(number: int) -> tuple[Batch, Unreadable]:
    index = global_indices(number, local_size, process_index, process_count)
    valid = index < total
    image, mask = (np.where(valid, part, -1) for part in np.divmod(index, masks_per_image))
    unreadable: Unreadable = {}

    def load(i: int) -> np.ndarray | None:
      try:
        rng = _rng(crop, hashed(_EVALUATION, seed, image[i])[0]) if valid[i] else None
        return portraits.load(int(image[i]), resolution, crop, rng) if valid[i] else None
      except UserError as error:
        unreadable[int(image[i])] = str(error)
        return None

    batch = {key: buffers.empty(part.shape) for key, part in spec.items()}
    wait_for_images = loader.start(load, batch['image'])
    size = np.count_nonzero(valid)  # padding comes last
    masks(_requests(seed, image[:size], mask[:size], count), batch['mask'][:size])
    batch['mask'][size:] = 1
    wait_for_images()
    batch |= {'image_index': image.astype(np.int32), 'mask_index': mask.astype(np.int32),
              'valid': valid & ~np.isin(image, list(unreadable))}
    return batch, unreadable

  vectors = {'image_index': tf.int32, 'mask_index': tf.int32, 'valid': tf.bool}
  all_specs = spec | {
      key: tf.TensorSpec((local_size,), dtype) for key, dtype in vectors.items()}
  return Stream(make, 0, -(-total // batch_size), all_specs, count)


def _requests(seed: int, image: np.ndarray, mask: np.ndarray, count: int) -> Requests:
  """Asks for the mask-th masks of images of an evaluation."""
  seeds = [hashed(_EVALUATION, seed, i, j + 1)[0] for i, j in zip(image, mask, strict=True)]
  return Requests(np.array(seeds, np.uint64), image, mask, mask * count + image)


def _spec(local_size: int, resolution: int) -> dict[str, tf.TensorSpec]:
  return {key: tf.TensorSpec((local_size, resolution, resolution, channels), tf.float32)
          for key, channels in (('image', 3), ('mask', 1))}


def _rng(crop: str, seed: int) -> np.random.Generator | None:
  return np.random.Generator(np.random.Philox(key=seed)) if crop == 'random_crop' else None


def _local_batch_size(
    portraits: Portraits, batch_size: int, process_index: int, process_count: int) -> int:
  """Checks what a process asks for and returns its share of a global batch."""
  if not len(portraits):
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
