"""A record as Markdown tables."""

import os

from eval.results import tables
from eval.results.record import Record
from eval.results.tables import Cell, Table, count_of
from mat_jax.runtime.storage import new_files


def markdown(record: Record) -> str:
  """The tables, with sample sizes and intervals."""
  lines = [f'# {record.title}', '', _scope(record)]
  for note in record.notes:
    lines += ['', f'> {note}']
  for name, group in record.mask_sets.items():
    lines += ['', f'## {tables.masks_title(name)}: {tables.count(group)}']
    lines += _table(tables.pair_table(group))
    lines += [f'\n{sentence}' for sentence in tables.left_out(group)]
    lines += _table(tables.distance_table(group))
  if record.bins:
    lines += ['', '## By the share of the image that is hole']
    lines += _table(tables.bin_table(record.bins))
  lines += ['', '↑ higher is better, ↓ lower is better.']
  return '\n'.join(lines)


def _scope(record: Record) -> str:
  parts = []
  if record.step is not None:
    parts.append(f'Step {record.step} ({record.kimg:.1f} kimg)')
  if record.split:
    parts.append(f'split {record.split}')
  parts.append(f'{count_of(record.masks_per_image, "mask" if record.split else "result")} per image')
  if record.unreadable:
    parts.append(f'{record.unreadable} more images could not be read')
  text = ', '.join(parts) + '.'
  return text[0].upper() + text[1:]


def _table(table: Table | None) -> list[str]:
  """The lines of a table; remarks, many of them alike, are numbered below it."""
  if table is None:
    return []
  remarks: dict[str, int] = {}

  def show(cell: Cell) -> str:
    if cell.detail and not cell.text:
      return str(remarks.setdefault(cell.detail, len(remarks) + 1))
    verdict = f'({cell.verdict})' if cell.verdict else ''
    return ' '.join(filter(None, (cell.text, cell.detail.replace('\n', ', '), verdict)))

  lines = ['', table.caption, '', _row([show(cell) for cell in table.columns]),
           '|---' * len(table.columns) + '|']
  for group in table.groups:
    if group.title:
      lines.append(_row([f'**{group.title}**', *[''] * (len(table.columns) - 1)]))
    lines += [_row([title, *map(show, cells)]) for title, cells in group.rows]
  return lines + (['', *(f'{number}. {text}' for text, number in remarks.items())]
                  if remarks else [])


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
