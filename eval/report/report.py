"""A report of an evaluation: one page with tables, figures and pictures, and the figures.

  python -m eval.report --workdir=A --baseline=B

reads what `--mode=eval` wrote into the workdir A and, for comparison, into B, and writes
A/report/report.html, which needs no other file and no network, and its figures as PNG files.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import re

import numpy as np

from eval.report import curves, inputs, matrix, page, pictures
from eval.report.inputs import Content, Evaluation
from eval.report.pictures import Section
from eval.results import tables
from eval.results.tables import count_of
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, new_files, staging

PAGE = 'report.html'
FOLDER = 'report'
_FIGURE = re.compile(r'(figure[12]|(figure3|best|worst|gains|losses)_[A-Za-z0-9_-]+)\.png')


@dataclasses.dataclass(frozen=True)
class MaskSet:
  """The part of the page about a set of masks.

  Attributes:
    title: heading.
    pairs: table of the metrics of pairs.
    left_out: sentences about pairs without a finite value.
    distances: table of the metrics of sets of images, or None.
    kept: number of pairs whose pictures were kept.
    total: number of pairs.
    comparisons: pairs of different images.
    cases: best and worst ones.
  """

  title: str
  pairs: tables.Table
  left_out: list[str]
  distances: tables.Table | None
  kept: int
  total: int
  comparisons: Section
  cases: Sequence[Section]


def make_report(workdir: str, baseline: str = '', output: str = '') -> str:
  """Writes the report.

  Args:
    workdir: has been evaluated with --mode=eval.
    baseline: another workdir whose evaluation is compared with, or ''.
    output: folder to write into, '' for WORKDIR/report; an earlier report is replaced.

  Returns:
    The path of the page.

  Raises:
    UserError: an evaluation is missing or cannot be compared, a file cannot be read, or the
      output holds something else than a report.
  """
  output = output or os.path.join(workdir, FOLDER)
  _check_replaceable(output)
  with (staging.local_copy(workdir, inputs.FILES) as ours,
        staging.local_copy(baseline, inputs.FILES) as theirs):
    _write(inputs.gather(inputs.load(ours), inputs.load(theirs) if theirs else None), output)
  return os.path.join(output, PAGE)


def _write(content: Content, output: str) -> None:
  """Writes the report on some content."""
  mask_sets = _mask_sets(content)
  found_curves = curves.curves(content.ours, content.theirs)
  scatters = matrix.matrix(content.pairs.metrics[content.system])
  figures = _figures(found_curves, scatters, mask_sets)
  html = page.render({
      'title': content.ours.record.title, 'metadata': _metadata(content), 'notes': _notes(content),
      'system': content.system, 'has_baseline': content.theirs is not None,
      'mask_sets': list(mask_sets.values()),
      'large': page.LARGE, 'small': page.SMALL,
      'max_points': matrix.MAX_POINTS, 'span': matrix.SPAN,
      'min_points': matrix.MIN_POINTS, 'curves': found_curves, 'matrix': scatters,
      'bins': tables.bin_table(content.bins) if content.bins else None,
      'ranking': tables.METRICS[pictures.ranking(content)].title,
      'figures': {name: page.png_uri(figures[name])
                  for name in ('figure1', 'figure2') if name in figures}})
  with new_files.replaced_directory(output) as folder:
    for name, data in (figures | {PAGE: html}).items():
      with open(os.path.join(folder, name if name == PAGE else f'{name}.png'), 'wb') as file:
        file.write(data)


def _check_replaceable(output: str) -> None:
  """Replacing a folder removes what is in it: it has to be a report, or empty."""
  try:
    found = (buckets.listed if buckets.is_address(output) else os.listdir)(output)
  except FileNotFoundError:
    return
  except OSError as error:
    raise UserError(f'{output} is no folder for a report ({error.strerror}); choose another '
                    'output') from error
  other = [name for name in found if name != PAGE and not _FIGURE.fullmatch(name)]
  if other or (found and PAGE not in found):
    raise UserError(f'{output} holds {(other or found)[0]!r}, which is not of a report; choose '
                    'another output')


def _mask_sets(content: Content) -> dict[str, MaskSet]:
  """What is shown of each set of masks, by its name."""
  kept = pictures.kept(content)
  found = {}
  for name, group in content.mask_sets.items():
    chosen = np.flatnonzero(kept & (content.pairs.masks == name))
    title = tables.masks_title(name)
    found[name] = MaskSet(
        f'{title}: {tables.count(group)}', tables.pair_table(group),
        tables.left_out(group), tables.distance_table(group), len(chosen),
        group.pairs, Section('figure3', title, pictures.comparisons(content, chosen)),
        pictures.cases(content, chosen))
  return found


def _figures(found_curves: Sequence[curves.Curve], scatters: matrix.Matrix,
             mask_sets: Mapping[str, MaskSet]) -> dict[str, bytes]:
  """PNG files by name; those without anything to show are missing."""
  drawn = {}
  if found_curves:
    drawn['figure1'] = curves.draw(found_curves)
  if scatters.n:
    drawn['figure2'] = matrix.draw(scatters)
  drawn |= {f'{section.name}_{name}': pictures.draw(section.rows)
            for name, mask_set in mask_sets.items()
            for section in (mask_set.comparisons, *mask_set.cases) if section.rows}
  return {name: page.figure_png(figure) for name, figure in drawn.items()}


def _metadata(content: Content) -> list[tuple[str, str]]:
  """Metadata of the evaluation: pairs of name and value."""
  record, theirs = content.ours.record, content.theirs
  metadata = [('Checkpoint' if theirs is None else 'Proposed', _checkpoint(content.ours))]
  if theirs is not None:
    metadata += [('Baseline', _checkpoint(theirs)),
              ('Matched pairs', f'{len(content.pairs):,} of the {len(content.ours.pairs):,} of the '
               f'evaluation and the {len(theirs.pairs):,} of the baseline')]
  metadata.append(('Images', f'{len(np.unique(content.pairs.image_index)):,}'
                + (f' of the split {record.split}' if record.split else '')))
  if record.unreadable:
    metadata.append(('Left out', f'{count_of(record.unreadable, "more image")} could not be read'))
  settings = [f'{name.replace("_", " ")} {value if isinstance(value, str) else json.dumps(value)}'
              for name, value in record.settings.items() if value not in ('', None)]
  return [*metadata, ('Settings', ', '.join(settings))]


def _checkpoint(evaluation: Evaluation) -> str:
  record = evaluation.record
  if record.step is None:
    return record.title
  return f'{record.title}, step {record.step:,} ({record.kimg:,.1f} kimg)'


def _notes(content: Content) -> list[str]:
  """Warnings about the whole."""
  notes = list(content.ours.record.notes)
  if content.ours.left_out:
    notes.append(f'{count_of(content.ours.left_out, "earlier evaluation")} with other settings '
                 'or of other runs left out of figure 1.')
  if content.theirs is None:
    return notes
  notes += [f'Baseline: {note}' for note in content.theirs.record.notes if note not in notes]
  if len(content.pairs) < max(len(content.ours.pairs), len(content.theirs.pairs)):
    notes.append('The evaluations have other pairs than each other: the tables of pairs are of '
                 'the matched ones, distances between sets of images of all.')
  return notes
