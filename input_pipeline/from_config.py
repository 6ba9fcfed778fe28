"""The streams that a configuration asks for; `configs/base.py` documents its fields."""

from absl import logging
import ml_collections
import numpy as np

from input_pipeline import mask_files, pipeline
from input_pipeline.image_dataset import ImageDataset, open_dataset
from input_pipeline.stream import Stream
from mat_jax.errors import UserError
from mat_jax.runtime import images
from mat_jax.runtime.storage import bucket_cache

FILES = 'files'  # the set of masks that come from a folder


def open_split(config: ml_collections.ConfigDict, split: str) -> ImageDataset:
  """Opens the images of a split of `config.data_dir`.

  Raises:
    UserError: nothing readable there, no such split or crop, or images prepared for a
      smaller model.
  """
  images.check_crop(config.data.crop)
  portraits = open_dataset(config.data_dir, config.data.genre)
  stored = portraits.source.resolution
  if stored is not None and stored < config.model.resolution:
    raise UserError(f'{config.data_dir!r} was prepared with {stored} pixels a side, '
                    f'model.resolution is {config.model.resolution}; prepare it again with '
                    f'--resolution={config.model.resolution}')
  return portraits.split(split, config.data.split_seed)


def open_training(
    config: ml_collections.ConfigDict) -> tuple[ImageDataset, mask_files.Masks]:
  """Opens what a training run reads, and tries what it will evaluate on.

  Raises:
    UserError: a wrong field, nothing readable, or nothing to validate on.
  """
  portraits = open_split(config, config.data.split)
  logging.info('%s has %d images (%s).', config.data_dir, len(portraits.source),
               type(portraits.source).__name__.removesuffix('Source'))
  for mask_set in mask_sets(config.eval):
    open_evaluation(config, config.eval.validation_split, mask_set)
  return portraits, _open_masks(
      config, config.data, portraits, config.seed, config.data.mask_preset)


def mask_sets(options: ml_collections.ConfigDict) -> list[str]:
  """The sets of masks that `config.eval` asks for: 'files', or names of presets.

  Raises:
    UserError: it asks for no set.
  """
  if options.mask_dir:
    return [FILES]
  names = [name for name in options.mask_preset.split('+') if name]
  if not names:
    raise UserError("eval.mask_preset is empty; set --config.eval.mask_preset to large, small or "
                    'large+small')
  return list(dict.fromkeys(names))


def open_evaluation(config: ml_collections.ConfigDict, split: str,
                    mask_set: str) -> tuple[ImageDataset, mask_files.Masks]:
  """Opens a split and a set of its fixed masks.

  Raises:
    UserError: a wrong field, nothing readable, or fewer masks than are asked for.
  """
  portraits = open_split(config, split)
  masks = _open_masks(config, config.eval, portraits, config.eval.seed, mask_set)
  if isinstance(masks, mask_files.MaskFiles):
    masks.check_places(config.eval.masks_per_image)
  return portraits, masks


def _open_masks(config: ml_collections.ConfigDict, options: ml_collections.ConfigDict,
                portraits: ImageDataset, seed: int, preset: str) -> mask_files.Masks:
  """Opens the masks that `config.data` or `config.eval`, the options, ask for."""
  resolution = config.model.resolution
  if not options.mask_dir:
    return mask_files.random_masks(resolution, preset, tuple(options.hole_range))
  return mask_files.MaskFiles(
      bucket_cache.local_path(options.mask_dir), resolution, portraits.stems, options.mask_order, seed)


def training_stream(
    config: ml_collections.ConfigDict, portraits: ImageDataset, masks: mask_files.Masks,
    start_index: int, process_index: int, process_count: int) -> Stream:
  """Streams the training batches from the one numbered `start_index` on."""
  return pipeline.training_batches(
      portraits, masks, resolution=config.model.resolution, batch_size=config.train.batch_size,
      seed=config.seed, start_index=start_index, mirror=config.data.mirror,
      crop=config.data.crop, process_index=process_index, process_count=process_count)


def evaluation_stream(
    config: ml_collections.ConfigDict, portraits: ImageDataset, masks: mask_files.Masks,
    process_index: int, process_count: int) -> tuple[Stream, int]:
  """Streams images with their fixed masks, and counts the batches."""
  options = config.eval
  stream = pipeline.evaluation_batches(
      portraits, masks, resolution=config.model.resolution, batch_size=options.batch_size,
      masks_per_image=options.masks_per_image, seed=options.seed, crop=config.data.crop,
      process_index=process_index, process_count=process_count)
  return stream, -(-len(portraits) * options.masks_per_image // options.batch_size)


def image_stream(config: ml_collections.ConfigDict, portraits: ImageDataset, process_index: int,
                 process_count: int) -> tuple[Stream, int]:
  """Streams images once each, with masks that keep all, and counts the batches."""
  batch_size = config.eval.batch_size
  stream = pipeline.evaluation_batches(
      portraits, _keep_all, resolution=config.model.resolution, batch_size=batch_size,
      seed=config.eval.seed, crop=config.data.crop, process_index=process_index,
      process_count=process_count)
  return stream, -(-len(portraits) // batch_size)


def _keep_all(requests: mask_files.Requests, out: np.ndarray) -> None:
  out.fill(1)


def other_images(config: ml_collections.ConfigDict, split: str, count: int) -> ImageDataset | None:
  """Images that are not in a split, `count` of them if there are as many, else all.

  Args:
    config: see `configs/base.py`.
    split: part of the images.
    count: how many.

  Returns:
    A seeded choice, None if the split has all images.
  """
  everything, chosen = open_split(config, 'all'), open_split(config, split)
  rest = np.setdiff1d(everything.positions, chosen.positions)
  if not rest.size:
    return None
  rng = np.random.default_rng(config.eval.seed)
  return ImageDataset(everything.source, sorted(rng.permutation(rest)[:count].tolist()))


def sample_batch(config: ml_collections.ConfigDict, count: int) -> pipeline.Batch:
  """Returns the first images of the validation split with their first masks."""
  portraits, masks = open_evaluation(
      config, config.eval.validation_split, mask_sets(config.eval)[0])
  count = min(count, len(portraits))
  batch = next(pipeline.evaluation_batches(
      portraits, masks, resolution=config.model.resolution, batch_size=count,
      seed=config.eval.seed, crop=config.data.crop))
  return {name: batch[name] for name in ('image', 'mask')}
