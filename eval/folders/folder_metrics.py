"""Metrics and features of images in folders, which may be of several sizes."""

from collections.abc import Callable, Mapping, Sequence
import itertools
import operator
from typing import Any

import jax
import numpy as np
import tqdm

from eval.folders import image_folders
from eval.folders.image_folders import Comparison, Example, Metadata
from eval.metrics import measuring
from eval.metrics.measuring import Models
from eval.results.pairs import Pairs
from input_pipeline.ahead import in_order
from mat_jax.runtime import images, sharding

WITH_MASKS, WITHOUT_MASKS = 'files', 'none'

Arrays = dict[str, np.ndarray]


def measure(comparison: Comparison, metadata: Sequence[Metadata], systems: Sequence[str],
            models: Models,
            batch_size: int) -> tuple[Pairs, dict[str, Arrays]]:
  """Measures all results.

  Args:
    comparison: files.
    metadata: of the examples.
    systems: names for the folders of results.
    models: networks to compare with.
    batch_size: results of a system in a batch, over all devices.

  Returns:
    Their metrics, and {system: {network: float32 [n, d]}} in the same order.

  Raises:
    UserError: files that have changed, or images too small for a metric.
  """
  examples = comparison.examples
  found = _in_batches(
      measuring.measure_batches(models, sharding.make_mesh()), _arrays, examples,
      [one.shape for one in metadata], batch_size, 'comparing')
  image = np.array([example.image for example in examples])
  kind = WITHOUT_MASKS if examples[0].mask is None else WITH_MASKS
  # The folders' names are for people; any may be one that `measuring` uses itself.
  keys = {system: str(i) for i, system in enumerate(systems)}
  pairs = Pairs(
      masks=np.full(len(image), kind), image_index=image, image=np.array(comparison.names)[image],
      mask=np.array([example.number for example in examples]),
      hole_ratio=np.array([one.hole_ratio for one in metadata]),
      metrics={system: found['metrics'][key] for system, key in keys.items()})
  return pairs, {system: found['features'][key] for system, key in keys.items()}


def features_of(files: Sequence[str], shapes: Sequence[tuple[int, int]], models: Models,
                batch_size: int, title: str) -> Arrays:
  """Features of image files, of the given shapes: {network: float32 [n, d]}."""
  return _in_batches(
      measuring.feature_batches(models, sharding.make_mesh()),
      lambda file: {'image': images.load_image(file)}, files, shapes, batch_size,
      title)['features']


def _arrays(example: Example) -> Arrays:
  loaded = image_folders.load(example)
  arrays = {measuring.REAL: loaded.real}
  arrays |= {str(i): result for i, result in enumerate(loaded.results)}
  if loaded.keep is not None:
    arrays[measuring.HOLE] = 1 - loaded.keep.astype(np.float32)
  return arrays


def _in_batches(compute: Callable[[Mapping[str, np.ndarray]], Any], load: Callable[[Any], Arrays],
                items: Sequence[Any], shapes: Sequence[tuple[int, int]], batch_size: int,
                title: str) -> Any:
  """Loads and computes in batches of one shape.

  Returns:
    What `compute` returns, a tree of [batch, ...], as a tree of [n, ...] in the order of
    the items.
  """
  batches = image_folders.batches_by_shape(shapes, batch_size)
  order = itertools.chain.from_iterable(batch.tolist() for batch in batches)
  stream = in_order(load, (items[position] for position in order))
  table = None
  for positions in tqdm.tqdm(batches, unit='batch', desc=title, disable=None):
    loaded = list(itertools.islice(stream, len(positions)))
    out = compute({name: np.stack([arrays[name] for arrays in loaded]) for name in loaded[0]})
    if table is None:
      table = jax.tree.map(lambda x: np.empty((len(items), *x.shape[1:]), x.dtype), out)
    # A position that fills up a batch is written twice, with the same values.
    jax.tree.map(lambda column, part: operator.setitem(column, positions, part),  # noqa: B023
                 table, out)
  return table
