"""Results of an evaluation as JSON and as a Markdown table."""

from collections.abc import Mapping
import dataclasses
import json
import math
import os

import numpy as np

from eval.image_metrics import Summary, mean_and_interval

# Title, number format and whether more is better, in the order of the columns.
_COLUMNS = {
    'psnr': ('PSNR, dB', '.2f'), 'ssim': ('SSIM', '.4f'), 'l1': ('L1', '.4f'),
    'psnr_hole': ('PSNR hole, dB', '.2f'), 'ssim_hole': ('SSIM hole', '.4f'),
    'l1_hole': ('L1 hole', '.4f')}


@dataclasses.dataclass(frozen=True)
class Report:
  """An evaluation.

  Attributes:
    step: training step of the checkpoint.
    kimg: thousand images it was trained on.
    split: part of the images.
    masks: kind of masks, or the folder that they are from.
    masks_per_image: number of fixed masks.
    unreadable: images that could not be read and are left out.
    summaries: {system: {metric: Summary}}.
  """

  step: int
  kimg: float
  split: str
  masks: str
  masks_per_image: int
  unreadable: int
  summaries: Mapping[str, Mapping[str, Summary]]


def summarize(pairs: np.ndarray) -> Summary:
  """Mean and 95 % interval over images of [images, masks] values.

  The masks of an image are averaged first: images are what was sampled, so only
  they are resampled. Infinite and undefined pairs are left out and counted.
  """
  finite = np.isfinite(pairs)
  counts = finite.sum(axis=1)
  sums = np.where(finite, pairs, 0.0).sum(axis=1, dtype=np.float64)
  per_image = np.divide(sums, counts, out=np.full(len(pairs), np.nan), where=counts > 0)
  return mean_and_interval(per_image)._replace(
      infinite=int(np.isinf(pairs).sum()), undefined=int(np.isnan(pairs).sum()))


def write_json(report: Report, path: str) -> None:
  """Writes the report; non-finite numbers become null."""
  content = dataclasses.asdict(report)
  content['summaries'] = {
      system: {name: {key: _or_null(value) for key, value in summary._asdict().items()}
               for name, summary in metrics.items()}
      for system, metrics in report.summaries.items()}
  _write(path, json.dumps(content, indent=2) + '\n')


def _or_null(value: float) -> float | None:
  return value if math.isfinite(value) else None


def markdown(report: Report) -> str:
  """The table, with intervals, and what it was measured on."""
  metrics = next(iter(report.summaries.values()))
  names = [name for name in _COLUMNS if name in metrics]
  lines = ['| | ' + ' | '.join(_COLUMNS[name][0] for name in names) + ' |',
           '|---' * (len(names) + 1) + '|']
  for system, summaries in report.summaries.items():
    cells = [_cell(summaries[name], _COLUMNS[name][1]) for name in names]
    lines.append(f'| {system} | ' + ' | '.join(cells) + ' |')
  masks = 'mask' if report.masks_per_image == 1 else 'masks'
  lines += ['', f'{metrics[names[0]].n} images ({report.split}) with {report.masks_per_image} '
            f'{masks} each ({report.masks}), step {report.step} ({report.kimg:.1f} kimg); '
            'mean [95 % interval over images].']
  if report.unreadable:
    lines.append(f'{report.unreadable} more images could not be read.')
  lines += [f'{system}, {_COLUMNS[name][0]}: {s.infinite} infinite and {s.undefined} undefined '
            'pairs left out.'
            for system, summaries in report.summaries.items()
            for name, s in summaries.items() if s.infinite or s.undefined]
  return '\n'.join(lines)


def _cell(summary: Summary, form: str) -> str:
  if not summary.n:
    return 'undefined'
  return f'{summary.mean:{form}} [{summary.low:{form}}, {summary.high:{form}}]'


def write_markdown(report: Report, path: str) -> None:
  """Writes the table."""
  _write(path, markdown(report) + '\n')


def _write(path: str, content: str) -> None:
  """Writes beside and renames, so that no reader sees half a file."""
  with open(path + '.part', 'w', encoding='utf-8') as file:
    file.write(content)
  os.replace(path + '.part', path)
