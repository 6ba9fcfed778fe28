"""Completes the pairs of image and mask of a split and measures the results.

Beside MAT, the simplest baseline is measured: the hole filled with the mean colour of the
kept pixels; and the classical methods that are asked for.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import tqdm

from eval.classical import measured
from eval.classical.methods import Fill
from eval.metrics import batching, image_metrics, measuring
from eval.metrics.measuring import Models
from eval.results.pairs import Pairs
from eval.results.systems import MEAN_COLOUR, MODEL
from input_pipeline import from_config
from input_pipeline.image_dataset import ImageDataset
from mat_jax.inference import completion
from mat_jax.nn.generator import Generator
from mat_jax.runtime import sharding
from mat_jax.training.step import aot

Arrays = dict[str, np.ndarray]
VARY = ('all', 'latents', 'keep_masks')
# Between the seeds of two completions of a pair; those of two pairs are 1 apart.
_SAMPLE_STRIDE = 0x85EBCA6B


class Completed(NamedTuple):
  """Metrics and features of a split completed with one set of masks.

  Attributes:
    pairs: metrics of MAT, of the mean colour and of classical methods.
    features: {system: {network: float32 [n, d]}}, in the order of the pairs.
    unreadable: images of the split that could not be read and are left out.
  """

  pairs: Pairs
  features: dict[str, Arrays]
  unreadable: int


# Called with every batch of pairs: 'image_index', 'mask_index' [n], and uint8 pictures
# 'original', 'result', 'stage1', 'mean colour' and those of classical methods by name
# [n, H, W, 3] and 'mask' [n, H, W, 1].
Observer = Callable[[Arrays], None]


def mean_colour_fill(image: jax.Array, mask: jax.Array) -> jax.Array:
  """Fills the hole with the mean colour of the kept pixels, gray without any.

  Args:
    image: [N, H, W, 3] in [-1, 1].
    mask: [N, H, W, 1].

  Returns:
    [N, H, W, 3].
  """
  kept = jnp.maximum(jnp.sum(mask, axis=(1, 2), keepdims=True), 1.0)
  mean = jnp.sum(image * mask, axis=(1, 2), keepdims=True) / kept
  return image * mask + mean * (1.0 - mask)


@functools.lru_cache(maxsize=4)
def _make_step(generator: Generator, mesh: Mesh, truncation_psi: float, samples: int,
               vary: str) -> Callable[..., Any]:
  """Completes a batch on the devices and measures; results are replicated."""
  def complete_other(variables: Any, batch: dict[str, jax.Array], i: jax.Array) -> jax.Array:
    seeds, keep_seeds = _sample_seeds(batch['seed'], i, vary)
    result, _ = completion.complete(generator, variables, batch['image'], batch['mask'], seeds,
                                    truncation_psi, keep_seeds=keep_seeds)
    return image_metrics.to_uint8(result)

  def step(variables: Any, models: Models, batch: dict[str, jax.Array]) -> dict[str, Any]:
    image, mask = batch['image'], batch['mask']
    result, stage1 = completion.complete(
        generator, variables, image, mask, batch['seed'], truncation_psi)
    original, result, stage1, filled = (
        image_metrics.to_uint8(x) for x in (image, result, stage1, mean_colour_fill(image, mask)))
    found = measuring.measure(
        models, original, {MODEL: result, MEAN_COLOUR: filled}, 1.0 - mask)
    numbers = {name: batch[name] for name in ('image_index', 'mask_index', 'valid')}
    if samples > 1:
      others = jax.lax.map(functools.partial(complete_other, variables, batch),
                           jnp.arange(1, samples, dtype=jnp.uint32))
      found['metrics'][MODEL] |= measuring.measure_samples(
          models, original, jnp.concatenate([result[None], others]))
    pictures = {'original': original, 'result': result, 'stage1': stage1, MEAN_COLOUR: filled,
                'mask': (mask * 255).astype(jnp.uint8)}
    return found | {'pictures': numbers | pictures,
                    'hole_ratio': jnp.mean(1.0 - mask, axis=(1, 2, 3))}

  return aot.across_processes(
      jax.jit(step, out_shardings=sharding.replicated(mesh)), 'the evaluation')


def _sample_seeds(seeds: jax.Array, i: jax.Array, vary: str) -> tuple[jax.Array, jax.Array]:
  """Seeds of latents and of keep masks of the completion numbered `i`; those of 0 are `seeds`."""
  other = seeds + i * jnp.uint32(_SAMPLE_STRIDE)
  return seeds if vary == 'keep_masks' else other, seeds if vary == 'latents' else other


def complete_split(
    generator: Generator, variables: Any, config: ml_collections.ConfigDict, split: str,
    mask_set: str, models: Models, observe: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    methods: Mapping[str, Fill] | None = None) -> Completed | None:
  """Completes every image of a split with each of its masks, and measures.

  Args:
    generator: module.
    variables: its params and buffers.
    config: see `configs/base.py`; uses `data`, `eval` and `data_dir`.
    split: part of the images.
    mask_set: of `from_config.mask_sets`.
    models: networks to compare with.
    observe: gets to see every batch; see `Observer`.
    should_stop: asked before every batch.
    methods: classical methods to measure too, of `classical.methods.load`.

  Returns:
    Metrics and features of all pairs. None if it had to stop.

  Raises:
    UserError: nothing to read, or too much of it unreadable.
  """
  mesh = sharding.make_mesh()
  sharding.check_batch_size(config.eval.batch_size, mesh, 'eval.batch_size')
  variables, models = sharding.replicate((variables, models), mesh)
  step = batching.BatchSizeFinder(functools.partial(
      _make_step(generator, mesh, config.eval.truncation_psi, config.eval.samples_per_mask,
                 config.eval.vary), variables, models), mesh)
  measure_classical = measured.measurer(methods, models, mesh) if methods else None
  portraits, masks = from_config.open_evaluation(config, split, mask_set)
  stream, count = from_config.evaluation_stream(
      config, portraits, masks, jax.process_index(), jax.process_count())
  parts = []
  for batch in tqdm.tqdm(stream, total=count, unit='batch', desc=f'evaluating ({mask_set} masks)',
                         disable=None):
    if should_stop():
      return None
    out = step(batch | {'seed': _seeds(batch, config.eval)})
    if measure_classical:
      out = _with_systems(out, measure_classical(batch))
    out = _valid_rows(out)
    pictures = out.pop('pictures')
    if observe:
      observe(pictures)
    parts.append(out | {name: pictures[name] for name in ('image_index', 'mask_index')})
  table = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
  return _completed(table, portraits, mask_set, [MODEL, MEAN_COLOUR, *(methods or ())])


def _with_systems(out: dict[str, Any], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """Adds the metrics, features and pictures of other systems."""
  return out | {part: out[part] | systems for part, systems in found.items()}


def _valid_rows(out: dict[str, Any]) -> dict[str, Any]:
  """Removes the padding of the last batch, and unreadable images."""
  valid = out['pictures'].pop('valid')
  return out if valid.all() else jax.tree.map(lambda x: x[valid], out)


def _completed(table: dict[str, Any], portraits: ImageDataset, mask_set: str,
               systems: Sequence[str]) -> Completed:
  index = table['image_index']
  pairs = Pairs(
      masks=np.full(len(index), mask_set), image_index=index,
      image=np.array(portraits.stems())[index], mask=table['mask_index'],
      hole_ratio=table['hole_ratio'].astype(np.float64),
      metrics={system: table['metrics'][system] for system in systems})  # JAX sorts them
  features = {system: table['features'][system] for system in systems}
  return Completed(pairs, features, len(portraits) - len(np.unique(index)))


def _seeds(batch: Arrays, options: ml_collections.ConfigDict) -> np.ndarray:
  """A latent seed for every pair of image and mask, independent of the batches."""
  pair = batch['image_index'].astype(np.int64) * options.masks_per_image + batch['mask_index']
  return ((options.seed * 0x9E3779B1 + pair) % 2**32).astype(np.uint32)


def features_of(config: ml_collections.ConfigDict, portraits: ImageDataset, models: Models,
                title: str, should_stop: Callable[[], bool] = lambda: False
                ) -> tuple[np.ndarray, Arrays] | None:
  """Features of images as they are.

  Args:
    config: see `configs/base.py`.
    portraits: images.
    models: whose features.
    title: for the progress bar.
    should_stop: asked before every batch.

  Returns:
    int [N], the numbers of the images that can be read, and {network: float32 [N, d]}.
    None if it had to stop.
  """
  compute = measuring.feature_batches(models, sharding.make_mesh())
  stream, count = from_config.image_stream(
      config, portraits, jax.process_index(), jax.process_count())
  parts = []
  for batch in tqdm.tqdm(stream, total=count, unit='batch', desc=title, disable=None):
    if should_stop():
      return None
    out = compute({'image': batch['image'], 'index': batch['image_index'],
                   'valid': batch['valid']})
    parts.append(jax.tree.map(lambda x: x[out['valid']], out))  # noqa: B023
  table = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
  return table['index'], table['features']
