"""Evaluates a checkpoint on held-out images with fixed masks.

Every image metric is computed over the whole picture and over the hole alone,
for MAT and for the simplest rival: the hole filled with the mean colour of the
kept pixels.
"""

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any, NamedTuple

from absl import logging
from clu import metric_writers
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import tqdm

from eval import image_metrics, tables
from input_pipeline import from_config
from mat_jax import image_grid, inference, settings, sharding
from mat_jax.checkpoint import fit_model, restore_ema
from mat_jax.generator import Generator

FOLDER = 'eval'
MODEL, BASELINE = 'MAT', 'mean colour'
PICTURE_ROWS = 6
_SHOWN_SIDE = 128  # smaller pictures are enlarged to it

Arrays = dict[str, np.ndarray]


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


def pair_metrics(result: jax.Array, image: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
  """All image metrics of a batch.

  Args:
    result: [N, H, W, 3] in [-1, 1].
    image: likewise.
    mask: [N, H, W, 1].

  Returns:
    Metric name -> float32 [N].
  """
  a, b = image_metrics.to_uint8(image), image_metrics.to_uint8(result)
  hole = 1.0 - mask
  metrics = {}
  for name in ('psnr', 'ssim', 'l1'):
    function = getattr(image_metrics, name)
    metrics[name] = function(a, b)
    metrics[f'{name}_hole'] = function(a, b, hole)
  return metrics


@functools.lru_cache(maxsize=4)
def _make_step(generator: Generator, mesh: Mesh,
               truncation_psi: float) -> Callable[..., dict[str, Any]]:
  """Completes a batch on the devices and compares; results are replicated."""
  def step(variables: Any, batch: dict[str, jax.Array]) -> dict[str, Any]:
    image, mask = batch['image'], batch['mask']
    result, stage1 = inference.complete(
        generator, variables, image, mask, batch['seed'], truncation_psi)
    filled = mean_colour_fill(image, mask)
    return {'metrics': {MODEL: pair_metrics(result, image, mask),
                        BASELINE: pair_metrics(filled, image, mask)},
            'pictures': {'stage1': stage1, 'result': result, BASELINE: filled}}

  return jax.jit(step, out_shardings=sharding.replicated(mesh))


def _seeds(batch: Arrays, options: ml_collections.ConfigDict) -> np.ndarray:
  """A latent seed for every pair of image and mask, whatever the batches."""
  pair = batch['image_index'].astype(np.int64) * options.masks_per_image + batch['mask_index']
  return ((options.seed * 0x9E3779B1 + pair) % 2**32).astype(np.uint32)


class Results(NamedTuple):
  """What an evaluation of a generator gives.

  Attributes:
    metrics: {system: {metric: [images, masks]}} for MAT and the baseline.
    pictures: {'image', 'mask', 'stage1', 'result', 'mean colour'} [n, H, W, C].
    unreadable: images of the split that could not be read and are left out.
  """

  metrics: dict[str, Arrays]
  pictures: Arrays
  unreadable: int


def run(generator: Generator, variables: Any, config: ml_collections.ConfigDict, split: str,
        pictures: int = 0, should_stop: Callable[[], bool] = lambda: False) -> Results | None:
  """Evaluates a generator on a split.

  Args:
    generator: module.
    variables: its params and buffers.
    config: see `configs/base.py`; uses `data`, `eval` and `data_dir`.
    split: part of the images.
    pictures: how many images to return, each with its first mask.
    should_stop: asked before every batch.

  Returns:
    Metrics of all pairs and pictures; see `Results`. None if it had to stop.

  Raises:
    UserError: nothing to read, or too much of it unreadable.
  """
  mesh = sharding.make_mesh()
  sharding.check_batch_size(config.eval.batch_size, mesh, 'eval.batch_size')
  variables = jax.device_put(variables, sharding.replicated(mesh))
  step = _make_step(generator, mesh, config.eval.truncation_psi)
  stream, count = from_config.evaluation_stream(
      config, split, jax.process_index(), jax.process_count())
  metrics: dict[str, dict[str, list[np.ndarray]]] = {}
  shown: list[Arrays] = []
  pairs: list[Arrays] = []
  for batch in tqdm.tqdm(stream, total=count, unit='batch', desc='evaluating', disable=None):
    if should_stop():
      return None
    inputs = {'image': batch['image'], 'mask': batch['mask'],
              'seed': _seeds(batch, config.eval)}
    out = jax.device_get(step(variables, sharding.to_global(inputs, mesh)))
    pairs.append({name: _gather(batch[name], mesh)
                  for name in ('image_index', 'mask_index', 'valid')})
    for system, values in out['metrics'].items():
      for name, value in values.items():
        metrics.setdefault(system, {}).setdefault(name, []).append(value)
    # One pair of every image, lest the picture shows one portrait many times.
    first = pairs[-1]['valid'] & (pairs[-1]['mask_index'] == 0)
    if sum(len(part['image']) for part in shown) < pictures and first.any():
      inputs = {name: _gather(batch[name], mesh) for name in ('image', 'mask')}
      shown.append({name: value[first] for name, value in (inputs | out['pictures']).items()})
  order = {name: np.concatenate([part[name] for part in pairs]) for name in pairs[0]}
  complete, unreadable = _complete_images(order, config.eval.masks_per_image)
  table = {system: {name: np.concatenate(parts)[complete] for name, parts in values.items()}
           for system, values in metrics.items()}
  joined = {name: np.concatenate([part[name] for part in shown])[:pictures]
            for name in (shown[0] if shown else ())}
  return Results(table, joined, unreadable)


def _complete_images(order: Arrays, masks_per_image: int) -> tuple[np.ndarray, int]:
  """Returns the positions of the pairs, [images, masks], and how many images lack some."""
  positions = np.flatnonzero(order['valid'])
  counts = np.bincount(order['image_index'][positions])
  positions = positions[counts[order['image_index'][positions]] == masks_per_image]
  complete = positions.reshape(-1, masks_per_image)
  return complete, int(order['image_index'].max()) + 1 - len(complete)


def _gather(value: np.ndarray, mesh: Mesh) -> np.ndarray:
  """The global batch that this process has a part of."""
  if jax.process_count() == 1:
    return value
  spread = sharding.to_global({'x': value}, mesh)['x']
  return np.asarray(jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))(spread))


def make_validation(config: ml_collections.ConfigDict) -> Callable[
    [Any, Mapping[str, Any], Callable[[], bool]], dict[str, float] | None]:
  """The metrics that a training run logs at every snapshot."""
  def validate(networks: Any, variables: Mapping[str, Any],
               should_stop: Callable[[], bool]) -> dict[str, float] | None:
    results = run(networks.generator, variables, config, config.eval.validation_split,
                  should_stop=should_stop)
    if results is None:
      return None
    means = {name: tables.summarize(pairs).mean for name, pairs in results.metrics[MODEL].items()}
    means['unreadable_images'] = results.unreadable
    return {f'validation/{name}': mean for name, mean in means.items()}

  return validate


def evaluate(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Evaluates a checkpoint; writes TensorBoard events, JSON, Markdown and a picture.

  Args:
    config: see `configs/base.py`.
    workdir: holds the checkpoint unless `config.eval.checkpoint` names one;
      results go into its folder `eval`.

  Raises:
    UserError: no checkpoint, another architecture, no images.
  """
  checkpoint = restore_ema(config.eval.checkpoint or workdir)
  model = fit_model(config.model, checkpoint.model, checkpoint.path)
  generator = settings.generator_from_config(model)
  results = run(generator, checkpoint.variables, config, config.eval.split, PICTURE_ROWS)
  pictures = results.pictures
  if jax.process_index():
    return
  folder = os.path.join(workdir, FOLDER)
  os.makedirs(folder, exist_ok=True)
  report = tables.Report(
      step=checkpoint.step, kimg=checkpoint.images_seen / 1000, split=config.eval.split,
      masks=config.eval.mask_dir or f'{config.eval.mask_preset} random',
      unreadable=results.unreadable,
      summaries={system: {name: tables.summarize(pairs) for name, pairs in metrics.items()}
                 for system, metrics in results.metrics.items()},
      masks_per_image=config.eval.masks_per_image)
  tables.write_json(report, os.path.join(folder, 'metrics.json'))
  tables.write_markdown(report, os.path.join(folder, 'metrics.md'))
  picture = os.path.join(folder, 'comparison.png')
  comparison = image_grid.grid([pictures['image'] * pictures['mask'], pictures[BASELINE],
                                pictures['result'], pictures['image']])
  image_grid.write_png(picture, image_grid.enlarge(comparison, _SHOWN_SIDE // generator.resolution))
  _write_events(report, pictures, folder)
  logging.info('Evaluated step %d (%s).', checkpoint.step, checkpoint.path)
  print(tables.markdown(report))
  print(f'masked / mean colour / MAT / original: {picture}')


def _write_events(report: tables.Report, pictures: Arrays, folder: str) -> None:
  writer = metric_writers.create_default_writer(folder, asynchronous=False)
  scalars = {f'{FOLDER}/{name}': summary.mean
             for name, summary in report.summaries[MODEL].items()}
  scalars |= {f'{FOLDER}_mean_colour/{name}': summary.mean
              for name, summary in report.summaries[BASELINE].items()}
  writer.write_scalars(report.step, scalars)
  columns = [pictures['image'], pictures['image'] * pictures['mask'], pictures['stage1'],
             pictures['result']]
  writer.write_images(report.step, {
      f'{FOLDER}/image_masked_stage1_result': image_grid.grid(columns)[None]})
  writer.close()
