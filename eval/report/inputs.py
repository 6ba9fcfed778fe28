"""The inputs of a report: evaluations, read, checked and matched with each other."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import os
import re
from typing import Any, NamedTuple

import numpy as np

from eval.metrics.names import PAIR_METRICS
from eval.results import aggregates, baseline, pairs, picture_paths, record
from eval.results.pairs import Pairs
from eval.results.record import Distance, Group, Record
from mat_jax.errors import UserError

PROPOSED, BASELINE = 'proposed', 'baseline'
_ROWS = 'stats.jsonl'
# What is read of a workdir.
FILES = (record.FOLDER, _ROWS)
_VALIDATION = 'validation/'
# Sets of masks become parts of paths, which a table from elsewhere must not choose.
_SAFE_NAME = re.compile(r'[A-Za-z0-9_-]+')
# The table has six decimals.
_RATIO_TOLERANCE = 2e-6


class Validation(NamedTuple):
  """Metrics of the validation images at a moment of the training.

  Attributes:
    kimg: thousand images trained on.
    metrics: name -> value, finite ones only.
  """

  kimg: float
  metrics: Mapping[str, float]


class Evaluation(NamedTuple):
  """What `--mode=eval` left in a workdir.

  Attributes:
    workdir: the folder.
    record: the last evaluation.
    history: evaluations of the last one's run, with its settings, by kimg, the newest of each.
    left_out: how many evaluations had other settings, or were of other runs.
    pairs: metrics of every pair, of the last evaluation.
    validation: validation metrics logged by the training run, in its order.
  """

  workdir: str
  record: Record
  history: Sequence[Record]
  left_out: int
  pairs: Pairs
  validation: Sequence[Validation]

  @property
  def system(self) -> str:
    """The system under evaluation; other systems are for comparison."""
    return next(iter(self.pairs.metrics))

  @property
  def pictures(self) -> str:
    """The folder of the pairs' pictures, which may be missing."""
    return os.path.join(self.workdir, record.FOLDER, picture_paths.FOLDER)


def load(workdir: str) -> Evaluation:
  """Reads the evaluations of a workdir.

  Args:
    workdir: holds `eval/metrics.json`, `metrics.jsonl` and `per_image.csv`, and perhaps
      `stats.jsonl`.

  Returns:
    An `Evaluation`.

  Raises:
    UserError: a file is missing or something else.
  """
  folder = os.path.join(workdir, record.FOLDER)
  last, table = record.read_last(folder), os.path.join(folder, pairs.FILE)
  records = record.read_all(folder)
  comparable = [one for one in records
                if one.settings == last.settings and one.run.is_same(last.run)]
  newest = {one.kimg: one for one in [*comparable, last] if one.kimg is not None}
  found = pairs.read_csv(table)
  for name in dict.fromkeys(found.masks.tolist()):
    if name not in last.mask_sets or not _SAFE_NAME.fullmatch(name):
      raise UserError(f'{table} has a set of masks {name!r} that the evaluation lacks; evaluate '
                      'again')
  return Evaluation(
      workdir, last, [newest[kimg] for kimg in sorted(newest)], len(records) - len(comparable),
      found, _read_validation(os.path.join(workdir, _ROWS)))


def _read_validation(path: str) -> list[Validation]:
  """Rows of `stats.jsonl` that have validation metrics; none without the file."""
  try:
    with open(path, encoding='utf-8') as file:
      # A run that is writing may have written half of its last line.
      rows = [json.loads(line) for line in file if line.endswith('\n')]
    found = [Validation(float(row['progress/kimg']), _metrics(row))
             for row in rows if 'progress/kimg' in row]
  except FileNotFoundError:
    return []
  except (OSError, ValueError, TypeError) as error:
    raise UserError(f'{path} cannot be read ({error}); repair it or move it away') from error
  return [validation for validation in found if validation.metrics]


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
  values = {name: row.get(_VALIDATION + name) for name in PAIR_METRICS}
  return {name: float(value) for name, value in values.items()
          if value is not None and math.isfinite(value)}


class Content(NamedTuple):
  """What the report shows.

  Attributes:
    ours: the evaluation.
    theirs: the one of the baseline, or None.
    pairs: metrics of the pairs that are shown; with a baseline those that both have.
    their_image_index: int [pairs], numbers of the images in the baseline's evaluation.
    mask_sets: tables by set of masks.
    bins: tables by share of the image that is hole.
  """

  ours: Evaluation
  theirs: Evaluation | None
  pairs: Pairs
  their_image_index: np.ndarray
  mask_sets: Mapping[str, Group]
  bins: Mapping[str, Group]

  @property
  def system(self) -> str:
    """The label of what is evaluated."""
    return next(iter(self.pairs.metrics))


def gather(ours: Evaluation, theirs: Evaluation | None) -> Content:
  """Merges an evaluation, and perhaps that of a baseline, into one table.

  Args:
    ours: the evaluation.
    theirs: of the baseline, or None.

  Returns:
    A `Content`.

  Raises:
    UserError: the two cannot be compared.
  """
  if theirs is None:
    return Content(ours, None, ours.pairs, ours.pairs.image_index, ours.record.mask_sets,
                   ours.record.bins)
  own, other = _matched(ours, theirs)
  systems = {PROPOSED: own.metrics[ours.system], BASELINE: other.metrics[theirs.system]}
  systems |= {name: metrics for name, metrics in own.metrics.items()
              if name not in (ours.system, BASELINE)}
  merged = dataclasses.replace(own, metrics=systems)
  comparisons = [(PROPOSED, name) for name in systems if name != PROPOSED]
  seed = ours.record.settings.get('seed', 0)
  return Content(
      ours, theirs, merged, other.image_index,
      aggregates.by_mask_set(merged, comparisons, _distances(ours, theirs), seed),
      aggregates.by_hole_ratio(merged, comparisons, seed))


def _matched(ours: Evaluation, theirs: Evaluation) -> tuple[Pairs, Pairs]:
  """The pairs that both evaluations have, in one order."""
  baseline.check_settings(theirs.record.settings, ours.record.settings, theirs.workdir)
  first, second = pairs.match(ours.pairs, theirs.pairs)
  if not len(first):
    raise UserError(f'no pair of image and mask of {ours.workdir} is in {theirs.workdir}; '
                    'evaluate both on the same images')
  own, other = ours.pairs.where(first), theirs.pairs.where(second)
  if not np.allclose(own.hole_ratio, other.hole_ratio, rtol=0, atol=_RATIO_TOLERANCE,
                     equal_nan=True):
    raise UserError(f'{ours.workdir} and {theirs.workdir} were evaluated with different masks; '
                    'evaluate both with the same')
  return own, other


def _distances(ours: Evaluation, theirs: Evaluation) -> dict[str, aggregates.Distances]:
  """Distances between sets of images, by set of masks and label."""
  found: dict[str, Mapping[str, Mapping[str, Distance]]] = {}
  for name, group in ours.record.mask_sets.items():
    other = theirs.record.mask_sets[name].distances if name in theirs.record.mask_sets else {}
    systems = {PROPOSED: group.distances.get(ours.system, {}),
               BASELINE: other.get(theirs.system, {})}
    found[name] = systems | {
        system: metrics for system, metrics in group.distances.items()
        if system not in (ours.system, BASELINE)}
  return found
