"""Tables of a record, cell by cell, which `markdown` and the report render.

Every number comes with its interval and its sample size.
"""

from collections.abc import Mapping
import math
from typing import NamedTuple

from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from eval.metrics.names import METRICS, PAIR_METRICS, Metric
from eval.results.record import Group

_TITLES = {'files': 'Masks from files', 'none': 'Without masks'}
# Verdicts on a difference.
BETTER, WORSE, UNCLEAR, FEW = 'better', 'worse', 'unclear', 'too few'
# Of fewer images, even if all of them differ in one direction, that is not significant at
# 5 % (two-sided sign test), and bootstrap intervals are much too narrow.
_MIN_IMAGES = 6


class Cell(NamedTuple):
  """A cell of a table.

  Attributes:
    text: the number, or words.
    detail: its interval and what else belongs to it.
    verdict: 'better', 'worse', 'unclear' or 'too few' for a difference; else ''.
  """

  text: str
  detail: str = ''
  verdict: str = ''


class Rows(NamedTuple):
  """Rows under a common heading.

  Attributes:
    title: the heading, or ''.
    rows: title of each row and its cells.
  """

  title: str
  rows: list[tuple[str, list[Cell]]]


class Table(NamedTuple):
  """A table.

  Attributes:
    caption: what it shows.
    columns: headings of the row titles, then of the cells.
    groups: its rows.
  """

  caption: str
  columns: list[Cell]
  groups: list[Rows]


def pair_table(group: Group) -> Table:
  """Means of the metrics of pairs, and paired differences between systems: a row for each."""
  names, groups = _names(group), []
  for heading, systems, signed in (('', group.metrics, False),
                                   ('Differences', group.differences, True)):
    rows = [(_minus(system), [mean_cell(metrics.get(name), METRICS[name], signed, group.images)
                              for name in names]) for system, metrics in systems.items()]
    if rows:
      groups.append(Rows(heading, rows))
  return Table(f'Means over n = {group.images:,} images [95 % interval]; where n is another, it '
               'stands beside. Differences are of the same images and masks.',
               [Cell('System'), *(Cell(title(name)) for name in names)], groups)


def bin_table(bins: Mapping[str, Group]) -> Table:
  """Means of the metrics of pairs, and paired differences, by hole ratio."""
  first = next(iter(bins.values()))
  groups = []
  for part, signed in (('metrics', False), ('differences', True)):
    for system in getattr(first, part):
      groups.append(Rows(_minus(system), [
          (title(name), [mean_cell(getattr(group, part).get(system, {}).get(name), METRICS[name],
                                   signed, group.images) for group in bins.values()])
          for name in _names(first)]))
  return Table('Means over images [95 % interval], over all sets of masks.',
               [Cell('Metric'),
                *(Cell(bin_name, count(group)) for bin_name, group in bins.items())],
               groups)


def distance_table(group: Group) -> Table | None:
  """Metrics of sets of images, a row for every system; None if there are none."""
  groups = []
  for name, metric in METRICS.items():
    found = {system: distances[name] for system, distances in group.distances.items()
             if name in distances}
    if found:
      remarks = _remarks([distance.note for distance in found.values()])
      groups.append(Rows(title(name), [
          (system, [_value_cell(d, metric), Cell(_ceiling(d, metric)),
                    Cell(f'{d.n_real:,} / {d.n_fake:,}'), Cell(f'{d.dimension:,}'), remark])
          for (system, d), remark in zip(found.items(), remarks, strict=True)]))
  if not groups:
    return None
  columns = ['System', 'Value', 'Real against real', 'Real / results', 'Features', 'Remarks']
  return Table('Distances between the set of real images and the set of results [95 % interval], '
               'how many of each, and the size of the features. A remark that all systems share '
               'stands in the first row.', [Cell(column) for column in columns], groups)


def _remarks(notes: list[str]) -> list[Cell]:
  """Cells of the notes, only the first if all are the same."""
  shown = notes if len(set(notes)) > 1 else notes[:1] + [''] * (len(notes) - 1)
  return [Cell('', note) for note in shown]


def _minus(name: str) -> str:
  return name.replace(' - ', ' − ')


def left_out(group: Group) -> list[str]:
  """A sentence for every metric that some pairs have no finite value of."""
  return [f'{system}, {METRICS[name].title}: {count_of(s.infinite, "infinite pair")} and '
          f'{count_of(s.undefined, "undefined pair")} left out.'
          for system, metrics in group.metrics.items() for name, s in metrics.items()
          if s.infinite or s.undefined]


def mean_cell(summary: Summary | None, metric: Metric, signed: bool, images: int) -> Cell:
  """A mean or, signed, a difference with the verdict on it; n where it is not that of images."""
  if summary is None:
    return Cell('–')
  if not summary.n:
    return Cell('undefined')
  text = number(summary.mean, metric.form, signed)
  if summary.n == 1:
    return Cell(text, 'one image, no interval')
  low, high = (number(end, metric.form, signed) for end in (summary.low, summary.high))
  detail = f'[{low}, {high}]' + (f', n = {summary.n:,}' if summary.n != images else '')
  return Cell(text, detail, _verdict(summary, metric.higher_is_better) if signed else '')


def _verdict(difference: Summary, higher_is_better: bool) -> str:
  if difference.n < _MIN_IMAGES:
    return FEW
  if difference.low <= 0 <= difference.high:
    return UNCLEAR
  return BETTER if (difference.low > 0) == higher_is_better else WORSE


def _value_cell(distance: Distance, metric: Metric) -> Cell:
  if distance.value is None or not math.isfinite(distance.value):
    return Cell('not measurable')
  details = []
  if distance.low is not None and distance.high is not None:
    details.append(f'[{number(distance.low, metric.form)}, {number(distance.high, metric.form)}]')
  if distance.at_ceiling_n is not None:
    details.append(f'{number(distance.at_ceiling_n, metric.form)} at n = {distance.ceiling_n:,}')
  return Cell(number(distance.value, metric.form), '\n'.join(details))


def _ceiling(distance: Distance, metric: Metric) -> str:
  if distance.ceiling is None:
    return '–'
  return f'{number(distance.ceiling, metric.form)} at n = {distance.ceiling_n:,}'


def number(value: float, form: str, signed: bool = False) -> str:
  """A number; unsigned, with more digits where its format would show 0 for another value."""
  if math.isnan(value):
    return 'undefined'
  if math.isinf(value):
    return '∞' if value > 0 else '−∞'
  sign = '+' if signed else ''
  text = f'{value:{sign}{form}}'
  if value and not signed and not text.strip('-0.'):
    text = f'{value:.1e}'
  return text.replace('-', '−', 1) if text.startswith('-') else text


def count(group: Group) -> str:
  """How many images and pairs a group has."""
  return f'{count_of(group.images, "image")}, {count_of(group.pairs, "pair")}'


def count_of(number_of: int, word: str) -> str:
  """'1 image', '2,000 images'."""
  return f'{number_of:,} {word}{"s" * (number_of != 1)}'


def masks_title(name: str) -> str:
  """What a set of masks is called in headings."""
  return _TITLES.get(name, f'{name.capitalize()} masks')


def title(name: str) -> str:
  """A metric's title and which way is better."""
  return f'{METRICS[name].title} {"↑" if METRICS[name].higher_is_better else "↓"}'


def _names(group: Group) -> list[str]:
  """Metrics of pairs that some system has, in their order."""
  found = {name for metrics in group.metrics.values() for name in metrics}
  return [name for name in PAIR_METRICS if name in found]
