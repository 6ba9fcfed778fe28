"""Compares a folder of results of any system with a folder of real images.

  python -m eval.folders --real=photos --fake=results --masks=masks --output=comparison

prints tables, and writes metrics.json, metrics.md and per_image.csv. Results are named as
their images, see `image_folders.pair`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np
import tqdm

from eval.folders import folder_metrics, image_folders
from eval.folders.image_folders import Comparison, Metadata
from eval.metrics import distances, feature_networks, measuring
from eval.metrics.measuring import Models
from eval.results import aggregates, markdown, pairs, record
from eval.results.pairs import Pairs
from eval.results.record import Record
from input_pipeline.ahead import in_order
from mat_jax.errors import UserError
from mat_jax.runtime.folders import find_images
from mat_jax.runtime.storage import bucket_cache, buckets


@dataclasses.dataclass(frozen=True)
class Options:
  """What to compare, and with which networks; each folder may be in a bucket.

  Attributes:
    real: folder of real images.
    fake: folder of results.
    masks: folder of masks, white where pixels were kept; '' without.
    baseline: folder of another system's results, of the same names; '' for none.
    others: folder of more real images, for the ceilings of P-IDS and U-IDS; '' for none.
    features: see `feature_networks.load`.
    weights: network -> file of its weights, '' for the usual place.
    lpips: see `measuring.load_lpips`.
    batch_size: images of a batch, over all devices.
    seed: of the bootstrap and of choices among images.
  """

  real: str
  fake: str
  masks: str = ''
  baseline: str = ''
  others: str = ''
  features: str = feature_networks.AUTO
  weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
  lpips: str = 'alex+vgg'
  batch_size: int = 16
  seed: int = 0


def compare(options: Options) -> tuple[Record, Pairs]:
  """Measures the results of one system, or of two.

  Args:
    options: folders and networks.

  Returns:
    The record, and the metrics of all pairs; systems have the names of their folders.

  Raises:
    UserError: folders that are missing, empty or do not match, a file that cannot be read,
      a pair of images of different size, images too small, or missing weights.
  """
  folders = [folder for folder in (options.fake, options.baseline) if folder]
  systems = system_names(folders)
  comparison = image_folders.pair(
      bucket_cache.existing_local_path(options.real), [*map(bucket_cache.existing_local_path, folders)],
      bucket_cache.existing_local_path(options.masks))
  others = _find_others(bucket_cache.existing_local_path(options.others), comparison.real)
  networks, left_out = feature_networks.load(options.features.replace(',', '+'), options.weights)
  models = Models(measuring.load_lpips(options.lpips.replace(',', '+')), networks)
  # What is wrong with a file shows before anything is computed.
  metadata = _read(image_folders.inspect, comparison.examples, 'reading')
  other_shapes = _read(image_folders.read_shape, others, 'reading other images')
  table, own = folder_metrics.measure(comparison, metadata, systems, models, options.batch_size)
  found = {}
  if networks:
    extract = functools.partial(
        folder_metrics.features_of, models=models, batch_size=options.batch_size)
    shapes = {example.real: one.shape
              for example, one in zip(comparison.examples, metadata, strict=True)}
    real = extract(comparison.real, [shapes[file] for file in comparison.real],
                   title='features of real images')
    other = extract(others, other_shapes, title='features of other images') if others else None
    found = distances.of_systems(real, own, table.image_index, other, options.seed)
  comparisons = [(systems[0], systems[1])] if options.baseline else []
  return Record(
      title=_as_text(f'{options.fake} against {options.real}'), step=None, kimg=None, split='',
      masks_per_image=int(table.mask.max()) + 1, unreadable=0,
      settings=dataclasses.asdict(options),
      mask_sets=aggregates.by_mask_set(table, comparisons, {table.masks[0]: found}, options.seed),
      bins=aggregates.by_hole_ratio(table, comparisons, options.seed),
      notes=(*_warnings(comparison, metadata, systems, 'vgg16' in networks), *left_out)), table


def system_names(folders: Sequence[str]) -> list[str]:
  """The names of folders, with those of folders above where they would be equal.

  Raises:
    UserError: a folder is there twice.
  """
  parts = [pathlib.Path(os.path.abspath(os.path.expanduser(folder))).parts for folder in folders]
  for depth in range(1, max(map(len, parts)) + 1):
    names = [_as_text('/'.join(part[-depth:])) for part in parts]
    if len(set(names)) == len(names):
      return names
  raise UserError(f'{folders[0]!r} is compared with itself; name another folder as the baseline')


def _as_text(path: str) -> str:
  """Makes a path printable: file names are bytes and need not be UTF-8."""
  return os.fsencode(path).decode(errors='replace')


def _find_others(folder: str, real: Sequence[str]) -> list[str]:
  """Files of a folder, none of which may be among the real images."""
  files = find_images(folder) if folder else []
  if not {os.path.realpath(file) for file in files}.isdisjoint(map(os.path.realpath, real)):
    raise UserError(f'{folder!r} holds some of the real images themselves; give others')
  return files


def _read(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> list[Any]:
  """function(item) for all items, with a progress bar."""
  return list(tqdm.tqdm(in_order(function, items), total=len(items), desc=title,
                        disable=None if items else True))


def _warnings(comparison: Comparison, metadata: Sequence[Metadata], systems: Sequence[str],
              has_vgg16: bool) -> list[str]:
  """Notes about the images that matter for reading the numbers."""
  notes = []
  if comparison.examples[0].mask:
    grey = [one.grey for one in metadata if one.grey]
    if grey:
      notes.append(f'{len(grey)} of {len(metadata)} masks have pixels that are neither black nor '
                   f'white, {sum(grey) / len(grey):,.0f} each on average; these count as hole.')
    for i, system in enumerate(systems):
      notes += _mask_warnings(system, np.array([one.kept_difference[i] for one in metadata]),
                              np.array([one.hole_difference[i] for one in metadata]))
  shapes = sorted({one.shape for one in metadata})
  if len(shapes) > 1 and has_vgg16:
    first, last = (f'{width} x {height}' for height, width in (shapes[0], shapes[-1]))
    notes.append(f'The images have {len(shapes)} sizes, {first} to {last}: distances with VGG16 '
                 'features mix scales, as that network alone sees images in their own size.')
  counts = np.bincount([example.image for example in comparison.examples])
  if counts.min() < counts.max():
    notes.append(f'The images have {counts.min()} to {counts.max()} results each; those of an '
                 'image are averaged first.')
  return notes


def _mask_warnings(system: str, kept: np.ndarray, hole: np.ndarray) -> list[str]:
  """Of the mean differences of all results over the kept pixels and over the hole."""
  notes = []
  changed = np.count_nonzero(kept)
  if changed:
    notes.append(f'{system}: kept pixels differ from the real image in {changed} of {len(kept)} '
                 f'results, there by {kept[kept > 0].mean():.2g} of 255 levels on average (saved '
                 'as JPEG, or without the real pixels put back); all metrics but those of the hole '
                 'count that.')
  if 2 * np.count_nonzero(kept > hole) > len(kept):
    notes.append(f'{system}: most results differ more where the masks keep (white) than in the '
                 'hole (black), as if the masks were inverted.')
  return notes


def write(found: Record, table: Pairs, folder: str) -> None:
  """Writes metrics.json, metrics.md and per_image.csv.

  Raises:
    UserError: they cannot be written.
  """
  record.write_json(found, folder)
  markdown.write(found, folder)
  pairs.write_csv(table, os.path.join(folder, pairs.FILE))


def make_folder(path: str) -> None:
  """Before anything is computed for it; in a bucket there is nothing to make."""
  try:
    if not buckets.is_address(path):
      os.makedirs(path, exist_ok=True)
  except OSError as error:
    raise UserError(f'{path!r} cannot be made ({error.strerror}); choose another output') from error
