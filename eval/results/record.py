"""The record of an evaluation, as one object and as JSON.

WORKDIR/eval/metrics.json is the last one, metrics.jsonl has a line for each.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
import os
from typing import Any, NamedTuple

from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from mat_jax.checkpoints.step_directories import FOLDER as STEPS
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, disk, new_files

FOLDER = 'eval'  # of a workdir, with all that evaluations write

Summaries = Mapping[str, Mapping[str, Summary]]  # {system: {metric: Summary}}


class Group(NamedTuple):
  """The pairs of one set of masks, or of one bin of hole ratios.

  Attributes:
    images: number of images.
    pairs: number of pairs of image and mask.
    metrics: {system: {metric: Summary}}.
    differences: {'A - B': {metric: Summary}}, of paired differences.
    distances: {system: {metric: Distance}}; empty for bins.
  """

  images: int
  pairs: int
  metrics: Summaries
  differences: Summaries
  distances: Mapping[str, Mapping[str, Distance]]


@dataclasses.dataclass(frozen=True)
class Record:
  """An evaluation.

  Attributes:
    title: what was evaluated, one line.
    step: training step of the checkpoint; None for folders.
    kimg: thousand images it was trained on; None for folders.
    split: part of the images; '' for folders.
    masks_per_image: number of fixed masks.
    unreadable: images that could not be read and are left out.
    settings: the settings that determine the numbers, as JSON values.
    mask_sets: 'large', 'small' or 'files' -> its pairs.
    bins: '0-20 %', ... -> the pairs of all mask sets whose hole covers that share.
    notes: warnings about the whole, one sentence each.
    source: the run that the checkpoint is of, see `source_of`; None for folders, and in what
      earlier versions wrote.
  """

  title: str
  step: int | None
  kimg: float | None
  split: str
  masks_per_image: int
  unreadable: int
  settings: Mapping[str, Any]
  mask_sets: Mapping[str, Group]
  bins: Mapping[str, Group]
  notes: tuple[str, ...] = ()
  source: str | None = None

  @property
  def run(self) -> 'Run':
    """Distinguishes its step from equal steps of other runs."""
    return Run(self.title, self.source)


class Run(NamedTuple):
  """Identifies the evaluated system.

  Attributes:
    title: of the record.
    source: of the record.
  """

  title: str
  source: str | None

  def is_same(self, other: 'Run') -> bool:
    """Whether two are the same, by their titles if one of them does not say its source."""
    if None in (self.source, other.source):
      return self.title == other.title
    return self.source == other.source


def source_of(step: str, workdir: str) -> str:
  """The run of a step directory, by which checkpoints of equal steps are told apart.

  Args:
    step: the step directory.
    workdir: has the evaluation.

  Returns:
    '.' for the workdir's own run, so that it can be moved; else the run's absolute path or address.
  """
  folder = os.path.dirname(_real(step))
  run = os.path.dirname(folder) if os.path.basename(folder) == STEPS else folder
  return '.' if run == _real(workdir) else run


def _real(path: str) -> str:
  return buckets.absolute(path) if buckets.is_address(path) else os.path.realpath(path)


def to_json(record: Record) -> dict[str, Any]:
  """The record as JSON values; numbers that are not finite become null."""
  return _plain(dataclasses.asdict(record))


def _plain(value: Any) -> Any:
  if hasattr(value, '_asdict'):
    value = value._asdict()
  if isinstance(value, Mapping):
    return {name: _plain(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(part) for part in value]
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value


def from_json(content: dict[str, Any]) -> Record:
  """The record that `to_json` wrote, with NaN for null means.

  Raises:
    ValueError, KeyError, TypeError: it is something else.
  """
  content = dict(content)
  if 'bands' in content:  # as records called them until 2026
    content['bins'] = content.pop('bands')
  groups = {part: {name: _group(value) for name, value in content[part].items()}
            for part in ('mask_sets', 'bins')}
  return Record(**content | groups | {'notes': tuple(content['notes'])})


def _group(content: Mapping[str, Any]) -> Group:
  summaries = {part: {system: {name: _summary(value) for name, value in metrics.items()}
                      for system, metrics in content[part].items()}
               for part in ('metrics', 'differences')}
  distances = {system: {name: Distance(**value) for name, value in metrics.items()}
               for system, metrics in content['distances'].items()}
  return Group(content['images'], content['pairs'], summaries['metrics'],
               summaries['differences'], distances)


def _summary(content: Mapping[str, Any]) -> Summary:
  values: dict[str, Any] = {
      name: math.nan if value is None else value for name, value in content.items()}
  return Summary(**values)


def write_json(record: Record, folder: str) -> None:
  """Writes metrics.json.

  Raises:
    UserError: it cannot be written.
  """
  with new_files.new_file(os.path.join(folder, 'metrics.json')) as file:
    file.write((json.dumps(to_json(record), indent=2) + '\n').encode())


def write(record: Record, folder: str) -> None:
  """Writes metrics.json, and adds a line to metrics.jsonl.

  Raises:
    UserError: they cannot be written.
  """
  write_json(record, folder)
  content = to_json(record)
  path = os.path.join(folder, 'metrics.jsonl')
  lines = [line for line in _lines(path) if not _is_repeated(line, content)]
  # The whole file anew: a line that was cut off, as on a full disk, would spoil the next.
  with new_files.new_file(path) as file:
    file.write(''.join(f'{line}\n' for line in [*lines, json.dumps(content)]).encode())


def _is_repeated(line: str, content: Mapping[str, Any]) -> bool:
  """Whether a line is an earlier evaluation of the same step of a run, with the same settings."""
  try:
    earlier = json.loads(line)
    return (all(earlier[name] == content[name] for name in ('step', 'settings'))
            and Run(earlier['title'], earlier.get('source')).is_same(
                Run(content['title'], content['source'])))
  except (ValueError, KeyError, TypeError):
    return False


def read_last(folder: str) -> Record:
  """The record of metrics.json.

  Raises:
    UserError: it is missing, or something else.
  """
  path = os.path.join(folder, 'metrics.json')
  try:
    with buckets.open_text(path) as file:
      return from_json(json.load(file))
  except FileNotFoundError as error:
    raise UserError(f'there is no evaluation in {folder}; evaluate first, with '
                    '--mode=eval') from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} cannot be read ({error}); evaluate again') from error


def read_all(folder: str) -> list[Record]:
  """The records of metrics.jsonl, in the order in which they were written.

  Raises:
    UserError: a line of it is something else.
  """
  path = os.path.join(folder, 'metrics.jsonl')
  try:
    return [from_json(json.loads(line)) for line in _lines(path)]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} cannot be read ({error}); move it away and evaluate again') from error


def _lines(path: str) -> list[str]:
  """Complete lines of a file; none if there is none."""

  def read() -> list[str]:
    with buckets.open_text(path) as file:
      return [line.rstrip('\n') for line in file if line.endswith('\n')]

  try:
    return disk.retried(read, path)
  except FileNotFoundError:
    return []
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
