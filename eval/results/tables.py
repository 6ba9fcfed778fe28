"""A record as Markdown tables."""

import math
import os

from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from eval.metrics.names import METRICS, PAIR_METRICS
from eval.results.record import Group, Record
from mat_jax.runtime import new_files

_TITLES = {'large': 'Large masks', 'small': 'Small masks', 'files': 'Masks from files',
           'none': 'Without masks'}


def markdown(record: Record) -> str:
  """The tables, with sample sizes and intervals."""
  lines = [f'# {record.title}', '', _scope(record)]
  for note in record.notes:
    lines += ['', f'> {note}']
  for name, group in record.mask_sets.items():
    lines += ['', f'## {_TITLES.get(name, name)}: {_count(group)}', '', *_pair_table(group)]
    lines += _left_out(group)
    if group.distances:
      lines += ['', *_distance_table(group)]
  if record.bins:
    lines += ['', '## By the share of the image that is hole', '', *_band_table(record)]
  lines += ['', 'Means over images [95 % bootstrap interval over images]; differences are of the '
            'same images and masks. ↑ higher is better, ↓ lower is better.']
  return '\n'.join(lines)


def _scope(record: Record) -> str:
  parts = []
  if record.step is not None:
    parts.append(f'Step {record.step} ({record.kimg:.1f} kimg)')
  if record.split:
    parts.append(f'split {record.split}')
  parts.append(_plural(record.masks_per_image, 'mask' if record.split else 'result') + ' per image')
  if record.unreadable:
    parts.append(f'{record.unreadable} more images could not be read')
  text = ', '.join(parts) + '.'
  return text[0].upper() + text[1:]


def _count(group: Group) -> str:
  return f'{_plural(group.images, "image")}, {_plural(group.pairs, "pair")}'


def _plural(count: int, word: str) -> str:
  return f'{count:,} {word}{"s" * (count != 1)}'


def _columns(group: Group) -> list[str]:
  return [name for name in PAIR_METRICS
          if any(name in metrics for metrics in group.metrics.values())]


def _pair_table(group: Group) -> list[str]:
  names = _columns(group)
  rows = [[system, *(_mean(metrics.get(name), name) for name in names)]
          for system, metrics in group.metrics.items()]
  rows += [[title, *(_mean(metrics.get(name), name, '+') for name in names)]
           for title, metrics in group.differences.items()]
  return _table(['', *map(_title, names)], rows)


def _band_table(record: Record) -> list[str]:
  names = _columns(next(iter(record.bins.values())))
  rows = [[bin_name, f'{group.pairs:,} of {_plural(group.images, "image")}', system,
           *(_mean(metrics.get(name), name) for name in names)]
          for bin_name, group in record.bins.items() for system, metrics in group.metrics.items()]
  return _table(['Hole', 'Pairs', '', *map(_title, names)], rows)


def _title(name: str) -> str:
  return f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}"


def _mean(summary: Summary | None, name: str, sign: str = '') -> str:
  if summary is None:
    return ''
  if not summary.n:
    return 'infinite' if summary.infinite else 'undefined'
  form = sign + METRICS[name].form
  if summary.n == 1:
    return f'{summary.mean:{form}} (one image)'
  return f'{summary.mean:{form}} [{summary.low:{form}}, {summary.high:{form}}]'


def _left_out(group: Group) -> list[str]:
  return [f'\n{system}, {METRICS[name].title}: {s.infinite} infinite and {s.undefined} undefined '
          'pairs left out.'
          for system, metrics in group.metrics.items()
          for name, s in metrics.items() if s.infinite or s.undefined]


def _distance_table(group: Group) -> list[str]:
  """Rows of metrics and systems; their remarks, many of them alike, numbered below."""
  remarks: dict[str, int] = {}
  rows = []
  for name, metric in METRICS.items():
    for system, metrics in group.distances.items():
      if (distance := metrics.get(name)) is not None:
        number = remarks.setdefault(distance.note, len(remarks) + 1) if distance.note else ''
        rows.append([_title(name), system, distance_value(distance, metric.form),
                     distance_ceiling(distance, metric.form),
                     f'{distance.n_real:,} / {distance.n_fake:,}', f'{distance.dimension:,}',
                     f'{number}'])
  head = ['', 'System', 'Value', 'Real against real', 'n real / results', 'Features', 'Remark']
  return _table(head, rows) + ['', *(f'{number}. {text}' for text, number in remarks.items())]


def distance_value(distance: Distance, form: str) -> str:
  """The value with its interval; words where it cannot be measured."""
  if distance.value is None or not math.isfinite(distance.value):
    return 'not measurable'
  if distance.low is None or distance.high is None:
    return f'{distance.value:{form}}'
  return f'{distance.value:{form}} [{distance.low:{form}}, {distance.high:{form}}]'


def distance_ceiling(distance: Distance, form: str) -> str:
  """The score of real images against other real images, and the number of pairs."""
  if distance.ceiling is None:
    return ''
  text = f'{distance.ceiling:{form}} (n = {distance.ceiling_n:,}'
  if distance.at_ceiling_n is not None:
    value = f'{distance.at_ceiling_n:{form}}' if distance.at_ceiling_n else 'none'
    text += f'; results at that n: {value}'
  return text + ')'


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
  return [_row(head), '|---' * len(head) + '|', *(_row(row) for row in rows)]


def _row(cells: list[str]) -> str:
  # Names of folders and files come from users.
  return '| ' + ' | '.join(cell.replace('|', '\\|').replace('\n', ' ') for cell in cells) + ' |'


def write(record: Record, folder: str) -> None:
  """Writes metrics.md.

  Raises:
    UserError: it cannot be written.
  """
  with new_files.new_file(os.path.join(folder, 'metrics.md')) as file:
    file.write((markdown(record) + '\n').encode())
