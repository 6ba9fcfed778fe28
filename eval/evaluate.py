"""Evaluates checkpoints on held-out images with fixed masks, once or as they appear."""

from collections.abc import Callable, Mapping
import functools
import os
import time
from typing import Any

from absl import logging
import ml_collections

from eval import completion, outputs
from eval.evaluator import Evaluator
from eval.metrics import measuring
from eval.metrics.bootstrap import summarize
from eval.metrics.measuring import Models
from eval.results import baseline, record
from input_pipeline import from_config
from mat_jax.checkpoints import step_directories
from mat_jax.checkpoints.reader import EmaCheckpoint, restore_ema, restore_ema_of
from mat_jax.checkpoints.restore import found_by_first
from mat_jax.errors import UserError
from mat_jax.runtime import cluster
from mat_jax.runtime.storage import disk


def make_validation(config: ml_collections.ConfigDict) -> Callable[
    [Any, Mapping[str, Any], Callable[[], bool]], dict[str, float] | None]:
  """The metrics that a training run logs at every snapshot.

  They are of the first set of masks, without distances between sets of images, which need
  more images than a validation should have.

  Raises:
    UserError: weights that are missing.
  """
  models = Models(measuring.load_lpips('alex'), {})

  def validate(networks: Any, variables: Mapping[str, Any],
               should_stop: Callable[[], bool]) -> dict[str, float] | None:
    completed = completion.complete_split(
        networks.generator, variables, config, config.eval.validation_split,
        from_config.mask_sets(config.eval)[0], models, should_stop=should_stop)
    if completed is None:
      return None
    pairs = completed.pairs
    means = {name: summarize(values, pairs.image_index).mean
             for name, values in pairs.metrics[completion.MODEL].items()}
    means['unreadable_images'] = completed.unreadable
    return {f'validation/{name}': mean for name, mean in means.items()}

  return validate


def evaluate(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Evaluates one checkpoint, or with `config.eval.follow` every one as it appears.

  Writes TensorBoard events at the checkpoint's step, metrics.json, a line of metrics.jsonl,
  metrics.md, per_image.csv and pictures.

  Args:
    config: see `configs/base.py`.
    workdir: holds the checkpoints unless `config.eval.checkpoint` names others; results go
      into its folder `eval`.

  Raises:
    UserError: no checkpoint, another architecture, no images, missing weights.
  """
  source, folder = config.eval.checkpoint or workdir, os.path.join(workdir, record.FOLDER)
  if config.eval.follow:
    _follow(config, source, folder)
  else:
    found = restore_ema(source)
    _evaluate_one(Evaluator(config), found, source, folder)


def _evaluate_one(evaluator: Evaluator, found: EmaCheckpoint, source: str, folder: str) -> None:
  options, run = evaluator.config.eval, _run(source, found.path, folder)
  theirs = baseline.load(options.baseline, evaluator.settings) if options.baseline else None
  with outputs.writing(folder, options) as album:
    result = evaluator.evaluate(found, run.title, album, theirs, run.source)
  outputs.write(result, album, folder, options.baseline)
  logging.info('Evaluated step %d (%s).', found.step, found.path)


def _run(source: str, step: str, folder: str) -> record.Run:
  return record.Run(f'MAT, {source}', record.source_of(step, os.path.dirname(folder)))


def _follow(config: ml_collections.ConfigDict, source: str, folder: str) -> None:
  """Evaluates every checkpoint without a record in `folder`, until the run has ended.

  Process 0 finds the checkpoints, and all of them evaluate each together.
  """
  if disk.is_folder(os.path.join(source, 'meta')):
    raise UserError(f'{source} is a single checkpoint; to follow a run give the workdir')
  evaluator = Evaluator(config)  # mistakes show now, not when the first checkpoint is there

  def is_done(step: int, path: str) -> bool:
    run = _run(source, path, folder)
    return any(r.step == step and r.settings == evaluator.settings and r.run.is_same(run)
               for r in record.read_all(folder))

  def next_step(after: int = -1) -> int | None:
    steps = step_directories.complete_steps(source)
    return min((step for step, path in steps.items() if step > after and not is_done(step, path)),
               default=None)

  def has_ended() -> int:
    steps = step_directories.complete_steps(source)
    return int(bool(steps) and next_step() is None and
               step_directories.is_last(steps[max(steps)]))

  while True:
    step = found_by_first(next_step, source)
    while step is not None:
      _evaluate_if_there(evaluator, step, source, folder)
      step = found_by_first(functools.partial(next_step, step), source)
    if found_by_first(has_ended, source):
      logging.info('The run in %s has ended; so does this evaluation.', source)
      return
    logging.log_every_n_seconds(logging.INFO, 'Waiting for checkpoints in %s.', 600, source)
    time.sleep(config.eval.follow_secs)


def _evaluate_if_there(evaluator: Evaluator, step: int, source: str, folder: str) -> None:
  """Evaluates a checkpoint, unless training has removed it meanwhile on any process."""
  path = step_directories.complete_steps(source).get(step)
  try:
    found = restore_ema_of(path) if path else None
  except step_directories.RemovedError:
    found = None
  has_all = all(cluster.all_gather('evaluate a checkpoint', int(found is not None)))
  if found is None or not has_all:
    logging.info('Step %d of %s was removed before it was evaluated.', step, source)
    return
  _evaluate_one(evaluator, found, source, folder)
