"""The streams that a configuration asks for; `configs/base.py` documents its fields."""

from absl import logging
import ml_collections

from input_pipeline import images, mask_files, pipeline
from input_pipeline.portraits import Portraits, open_portraits
from input_pipeline.stream import Stream
from mat_jax.errors import UserError


def open_split(config: ml_collections.ConfigDict, split: str) -> Portraits:
  """Opens the images of a split of `config.data_dir`.

  Raises:
    UserError: nothing readable there, no such split or crop, or images prepared for a
      smaller model.
  """
  images.check_crop(config.data.crop)
  portraits = open_portraits(config.data_dir, config.data.genre)
  stored = portraits.source.resolution
  if stored is not None and stored < config.model.resolution:
    raise UserError(f'{config.data_dir!r} was prepared with {stored} pixels a side, '
                    f'model.resolution is {config.model.resolution}; prepare it again with '
                    f'--resolution={config.model.resolution}')
  return portraits.split(split, config.data.split_seed)


def open_training(
    config: ml_collections.ConfigDict) -> tuple[Portraits, mask_files.Masks]:
  """Opens what a training run reads, and tries what it will evaluate on.

  Raises:
    UserError: a wrong field, nothing readable, or nothing to validate on.
  """
  portraits = open_split(config, config.data.split)
  logging.info('%s has %d images (%s).', config.data_dir, len(portraits.source),
               type(portraits.source).__name__.removesuffix('Source'))
  open_evaluation(config, config.eval.validation_split)
  return portraits, _open_masks(config, config.data, portraits, config.seed)


def open_evaluation(
    config: ml_collections.ConfigDict, split: str) -> tuple[Portraits, mask_files.Masks]:
  """Opens a split and its fixed masks.

  Raises:
    UserError: a wrong field, nothing readable, or fewer masks than are asked for.
  """
  portraits = open_split(config, split)
  masks = _open_masks(config, config.eval, portraits, config.eval.seed)
  if isinstance(masks, mask_files.MaskFiles):
    masks.check_places(config.eval.masks_per_image)
  return portraits, masks


def _open_masks(config: ml_collections.ConfigDict, options: ml_collections.ConfigDict,
                portraits: Portraits, seed: int) -> mask_files.Masks:
  """Opens the masks that `config.data` or `config.eval`, the options, ask for."""
  resolution = config.model.resolution
  if not options.mask_dir:
    return mask_files.random_masks(resolution, options.mask_preset, tuple(options.hole_range))
  return mask_files.MaskFiles(
      options.mask_dir, resolution, portraits.stems, options.mask_order, seed)


def training_stream(
    config: ml_collections.ConfigDict, portraits: Portraits, masks: mask_files.Masks,
    start_index: int, process_index: int, process_count: int) -> Stream:
  """Streams the training batches from the one numbered `start_index` on."""
  return pipeline.training_batches(
      portraits, masks, resolution=config.model.resolution, batch_size=config.train.batch_size,
      seed=config.seed, start_index=start_index, mirror=config.data.mirror,
      crop=config.data.crop, process_index=process_index, process_count=process_count)


def evaluation_stream(
    config: ml_collections.ConfigDict, split: str, process_index: int,
    process_count: int) -> tuple[Stream, int]:
  """Streams a split with its fixed masks, and counts the batches."""
  options = config.eval
  portraits, masks = open_evaluation(config, split)
  stream = pipeline.evaluation_batches(
      portraits, masks, resolution=config.model.resolution, batch_size=options.batch_size,
      masks_per_image=options.masks_per_image, seed=options.seed, crop=config.data.crop,
      process_index=process_index, process_count=process_count)
  return stream, -(-len(portraits) * options.masks_per_image // options.batch_size)


def sample_batch(config: ml_collections.ConfigDict, count: int) -> pipeline.Batch:
  """Returns the first images of the validation split with their first masks."""
  portraits, masks = open_evaluation(config, config.eval.validation_split)
  count = min(count, len(portraits))
  batch = next(pipeline.evaluation_batches(
      portraits, masks, resolution=config.model.resolution, batch_size=count,
      seed=config.eval.seed, crop=config.data.crop))
  return {name: batch[name] for name in ('image', 'mask')}
