"""Evaluates checkpoints on held-out images with fixed masks, once or as they appear."""

from collections.abc import Callable, Mapping
import os
import time
from typing import Any

from absl import logging
import jax
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
from mat_jax.errors import UserError
from mat_jax.runtime import disk


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
  """Evaluates every checkpoint without a record in `folder`, until the run has ended."""
  if disk.is_folder(os.path.join(source, 'meta')):
    raise UserError(f'{source} is a single checkpoint; to follow a run give the workdir')
  if jax.process_count() > 1:
    raise UserError('eval.follow works on a single process; start it on one host, without '
                    '--distributed')
  evaluator = Evaluator(config)  # mistakes show now, not when the first checkpoint is there

  def is_done(path: str) -> bool:
    run, step = _run(source, path, folder), int(os.path.basename(path))
    return any(r.step == step and r.settings == evaluator.settings and r.run.is_same(run)
               for r in record.read_all(folder))

  while True:
    found = step_directories.complete_steps(source)
    done = [is_done(path) or _evaluate_if_there(evaluator, path, source, folder)
            for path in found.values()]
    if found and all(done) and step_directories.is_last(found[max(found)]):
      logging.info('The run in %s has ended; so does this evaluation.', source)
      return
    logging.log_every_n_seconds(logging.INFO, 'Waiting for checkpoints in %s.', 600, source)
    time.sleep(config.eval.follow_secs)


def _evaluate_if_there(evaluator: Evaluator, path: str, source: str, folder: str) -> bool:
  """Evaluates a checkpoint, unless training has removed it meanwhile; returns whether it did."""
  try:
    found = restore_ema_of(path)
  except step_directories.RemovedError:
    logging.info('%s was removed before it was evaluated.', path)
    return False
  _evaluate_one(evaluator, found, source, folder)
  return True
