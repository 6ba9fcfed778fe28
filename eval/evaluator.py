"""The evaluation of a checkpoint: completions, metrics and distances."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

from absl import logging
import ml_collections
import numpy as np

from eval import completion
from eval.classical import methods as classical
from eval.completion import Arrays, Completed
from eval.metrics import distances, feature_networks, measuring
from eval.metrics.distances import Distance
from eval.metrics.measuring import Models
from eval.results import aggregates
from eval.results.album import Album
from eval.results.baseline import CLASSICAL
from eval.results.pairs import Pairs, join, match
from eval.results.record import Record
from eval.results.systems import BASELINE, MEAN_COLOUR, MODEL
from input_pipeline import from_config
from input_pipeline.image_dataset import ImageDataset
from input_pipeline.stream import is_too_many
from mat_jax.checkpoints.reader import EmaCheckpoint, resolve_model_config
from mat_jax.errors import UserError
from mat_jax.nn import model_config


class Result(NamedTuple):
  """The results of an evaluation.

  Attributes:
    record: means, differences and distances.
    pairs: metrics of all pairs.
  """

  record: Record
  pairs: Pairs


class Evaluator:
  """Evaluates checkpoints in the same way; what does not depend on them is computed once.

  Attributes:
    config: see `configs/base.py`.
    settings: the settings that determine the numbers, as JSON values.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    """Tries to open the images and masks, and reads the weights of the feature networks.

    Raises:
      UserError: nothing to read, missing weights, the missing library of a classical method, or a
        wrong field.
    """
    options = config.eval
    if options.samples_per_mask < 1:
      raise UserError(f'eval.samples_per_mask is {options.samples_per_mask}; give a number >= 1')
    if options.vary not in completion.VARY:
      raise UserError(f'eval.vary is {options.vary!r}; choose one of {", ".join(completion.VARY)}')
    self._methods = classical.load(options.classical, 'eval.classical')
    for mask_set in from_config.mask_sets(options):
      from_config.open_evaluation(config, options.split, mask_set)  # before anything is computed
    self.config, self.settings = config, settings_of(config)
    networks, self._notes = feature_networks.load(
        options.features,
        {name: options[f'{name}_weights'] for name in feature_networks.WITH_FILES})
    self._models = Models(measuring.load_lpips(options.lpips), networks)

  def evaluate(self, checkpoint: EmaCheckpoint, title: str, album: Album,
               baseline: Pairs | None, source: str | None = None) -> Result:
    """Completes the split with every set of masks, and measures.

    Args:
      checkpoint: averaged generator.
      title: of the record.
      album: gets the pictures.
      baseline: MAT's metrics in another evaluation of the same pairs, for comparison.
      source: of the record, see `record.source_of`.

    Raises:
      UserError: another architecture, no images, a baseline of other images.
    """
    config = self.config
    if baseline is not None:
      self._check_baseline(baseline)
    model = resolve_model_config(config.model, checkpoint.model, checkpoint.path)
    generator = model_config.generator_from_config(model, config.implementations)
    completed: dict[str, Completed] = {}
    for mask_set in from_config.mask_sets(config.eval):
      part = completion.complete_split(
          generator, checkpoint.variables, config, config.eval.split, mask_set, self._models,
          functools.partial(album.add, mask_set), methods=self._methods)
      assert part is not None  # Nothing asks it to stop.
      completed[mask_set] = part
    pairs = join([part.pairs for part in completed.values()])
    comparisons = [(MODEL, name) for name in (MEAN_COLOUR, *self._methods)]
    if baseline is not None:
      pairs = _with_baseline(pairs, baseline)
      comparisons.append((MODEL, BASELINE))
    seed = config.eval.seed
    return Result(Record(
        title=title, step=checkpoint.step, kimg=checkpoint.images_seen / 1000,
        split=config.eval.split, masks_per_image=config.eval.masks_per_image,
        unreadable=max(part.unreadable for part in completed.values()), settings=self.settings,
        mask_sets=aggregates.by_mask_set(pairs, comparisons, self._distances(completed), seed),
        bins=aggregates.by_hole_ratio(pairs, comparisons, seed), notes=self._notes,
        source=source), pairs)

  def _check_baseline(self, baseline: Pairs) -> None:
    """Raises UserError unless the baseline has the images, but for some that are unreadable."""
    stems = from_config.open_split(self.config, self.config.eval.split).stems()
    missing = set(stems) - set(baseline.image.tolist())
    if is_too_many(len(missing), len(stems)):
      raise UserError(f'the baseline was evaluated on other images: it lacks {len(missing)} of '
                      f'{len(stems)}, {min(missing)!r} for one; evaluate both on the same data')

  def _distances(self, completed: Mapping[str, Completed]
                 ) -> dict[str, dict[str, dict[str, Distance]]]:
    """{set of masks: {system: {metric: Distance}}}."""
    if not self._models.features:
      return {}
    logging.info('Computing distances between sets of images.')
    return {mask_set: self._distances_of(part) for mask_set, part in completed.items()}

  def _distances_of(self, part: Completed) -> dict[str, dict[str, Distance]]:
    index, real = self._real_features
    others = self._other_features
    row = np.searchsorted(index, part.pairs.image_index)
    return distances.of_systems(real, part.features, row, others, self.config.eval.seed)

  @functools.cached_property
  def _real_features(self) -> tuple[np.ndarray, Arrays]:
    portraits = from_config.open_split(self.config, self.config.eval.split)
    return self._features(portraits, 'features of the originals')

  @functools.cached_property
  def _other_features(self) -> Arrays | None:
    """Of as many other real images as there are pairs, for the ceiling of P-IDS and U-IDS."""
    config = self.config
    count = len(self._real_features[0]) * config.eval.masks_per_image
    portraits = from_config.other_images(config, config.eval.split, count)
    if portraits is None:
      return None
    return self._features(portraits, 'features of other images')[1]

  def _features(self, portraits: ImageDataset, title: str) -> tuple[np.ndarray, Arrays]:
    found = completion.features_of(self.config, portraits, self._models, title)
    assert found is not None  # Nothing asks it to stop.
    return found


def settings_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The settings that determine the numbers of an evaluation."""
  options = config.eval
  several = {'samples_per_mask': options.samples_per_mask, 'vary': options.vary}
  methods = '+'.join(classical.names_of(options.classical))
  return (several if options.samples_per_mask > 1 else {}) | (
      {CLASSICAL: methods} if methods else {}) | {
      'resolution': config.model.resolution, 'crop': config.data.crop, 'genre': config.data.genre,
      'split': options.split, 'split_seed': config.data.split_seed,
      'masks': '+'.join(from_config.mask_sets(options)), 'mask_dir': options.mask_dir,
      'mask_order': options.mask_order, 'hole_range': list(options.hole_range),
      'masks_per_image': options.masks_per_image, 'seed': options.seed,
      'truncation_psi': options.truncation_psi}


def _with_baseline(pairs: Pairs, baseline: Pairs) -> Pairs:
  """The pairs with the metrics of a baseline beside them, NaN where it has none."""
  ours, theirs = match(pairs, baseline)
  metrics = {}
  for name, values in baseline.metrics[MODEL].items():
    metrics[name] = np.full(len(pairs), np.nan)
    metrics[name][ours] = values[theirs]
  return dataclasses.replace(pairs, metrics=dict(pairs.metrics) | {BASELINE: metrics})
