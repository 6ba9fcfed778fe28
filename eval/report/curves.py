"""Metrics over the training: the report's first figure."""

from collections.abc import Mapping, Sequence
import math
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
  FixedLocator,
  LogLocator,
  MaxNLocator,
  NullFormatter,
  StrMethodFormatter,
)
import numpy as np

from eval.metrics.names import METRICS
from eval.report.inputs import BASELINE, PROPOSED, Evaluation
from eval.results.record import Record
from eval.results.systems import MEAN_COLOUR
from eval.results.tables import title

Style = Literal['-', '--', ':']

# Of Okabe and Ito, "Color Universal Design", 2008, which the colour-blind tell apart.
_COLOURS = ('#0072b2', '#767676', '#d55e00', '#cc79a7', '#56b4e9', '#f0e442', '#000000', '#8c564b',
            '#bcbd22')
_VALIDATION_COLOURS = ('#009e73', '#e69f00')
_STYLES: tuple[Style, ...] = ('-', '--', ':')  # of sets of masks
_COLUMNS = 3
_PANEL = (3.5, 2.5)  # inches
_MAX_MARKERS = 15
_LOG_RATIO = 5  # of values and intervals, from which their axis is logarithmic

# Thousand images trained on, the value, and the ends of its interval, NaN without one.
Point = tuple[float, float, float, float]


class Curve(NamedTuple):
  """The metrics of one system on one set of masks.

  Attributes:
    label: for the legend.
    colour: of the lines.
    style: of the lines.
    points: metric -> at least one, by the images trained on.
    is_level: whether the system does not depend on the training.
  """

  label: str
  colour: str
  style: Style
  points: Mapping[str, Sequence[Point]]
  is_level: bool = False


def curves(ours: Evaluation, theirs: Evaluation | None) -> list[Curve]:
  """The curves of all systems, those of the evaluations first.

  Args:
    ours: the evaluation.
    theirs: of the baseline, or None.
  """
  systems = [(PROPOSED if theirs else ours.system, ours, ours.system)]
  systems += [(name, ours, name) for name in ours.pairs.metrics
              if name != ours.system and not (theirs and name == BASELINE)]
  validated = systems[:1]
  if theirs:
    validated.append((BASELINE, theirs, theirs.system))
    systems.insert(2, validated[-1])  # before classical methods
  found = [Curve(f'{label}, {masks}', colour, style, _evaluated(evaluation, masks, system),
                 system not in (evaluation.system, MEAN_COLOUR, BASELINE))
           for colour, (label, evaluation, system) in zip(_COLOURS, systems, strict=False)
           for style, masks in zip(_STYLES, evaluation.record.mask_sets, strict=False)]
  found += [Curve(f'{label}, validation images', colour, '-', _validated(evaluation))
            for colour, (label, evaluation, _) in zip(_VALIDATION_COLOURS, validated, strict=False)]
  return [curve for curve in found if curve.points]


def _evaluated(evaluation: Evaluation, masks: str, system: str) -> dict[str, list[Point]]:
  points: dict[str, list[Point]] = {}
  for record in evaluation.history:
    assert record.kimg is not None
    for name, (value, low, high) in _values(record, masks, system).items():
      points.setdefault(name, []).append((record.kimg, value, low, high))
  return points


def _values(record: Record, masks: str, system: str) -> dict[str, tuple[float, float, float]]:
  """Metric -> value and interval, for those that could be measured."""
  group = record.mask_sets.get(masks)
  if group is None:
    return {}
  summaries = {name: (s.mean, s.low, s.high) for name, s in group.metrics.get(system, {}).items()}
  distances = {name: (_or_nan(d.value), _or_nan(d.low), _or_nan(d.high))
               for name, d in group.distances.get(system, {}).items()}
  return {name: values for name, values in (summaries | distances).items()
          if math.isfinite(values[0])}


def _or_nan(value: float | None) -> float:
  return math.nan if value is None else value


def _validated(evaluation: Evaluation) -> dict[str, list[Point]]:
  points: dict[str, list[Point]] = {}
  for kimg, metrics in evaluation.validation:
    for name, value in metrics.items():
      points.setdefault(name, []).append((kimg, value, math.nan, math.nan))
  return points


def draw(lines: Sequence[Curve]) -> Figure:
  """Draws a panel for every metric.

  Args:
    lines: at least one curve.

  Returns:
    The figure.
  """
  names = [name for name in METRICS if any(name in curve.points for curve in lines)]
  rows = -(-len(names) // _COLUMNS)
  figure = Figure(figsize=(_PANEL[0] * _COLUMNS, _PANEL[1] * rows + 0.6), layout='constrained')
  panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
  for name, axes in zip(names, panels, strict=False):
    axes.set_title(title(name), fontsize=10, loc='left')
    axes.tick_params(labelsize=8)
    _draw_metric(axes, name, [curve for curve in lines if name in curve.points])
  for axes in panels[len(names):]:
    axes.remove()
  for axes in panels[max(len(names) - _COLUMNS, 0):len(names)]:
    axes.set_xlabel('thousand training images', fontsize=9)
  # Labels come from files: a dollar sign would begin a formula.
  figure.legend(handles=[
      Line2D([], [], color=curve.colour, linestyle=curve.style,
             label=curve.label.replace('$', r'\$')) for curve in lines],
      loc='outside upper center', ncols=3, fontsize=9, frameon=False)
  return figure


def _draw_metric(axes: Axes, name: str, lines: Sequence[Curve]) -> None:
  axes.grid(color='#e4e4e4', linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
  trained = sorted({point[0] for curve in lines for point in curve.points[name]})
  for curve in lines:
    kimg, value, low, high = np.array(curve.points[name]).T
    if curve.is_level:
      axes.axhline(value[-1], color=curve.colour, linestyle=curve.style, linewidth=0.8)
      continue
    axes.plot(kimg, value, curve.style, color=curve.colour, linewidth=1.4,
              marker='o' if len(kimg) <= _MAX_MARKERS else None, markersize=3)
    if len(kimg) > 1:
      axes.fill_between(kimg, low, high, color=curve.colour, alpha=0.15, linewidth=0)
      continue
    axes.vlines(kimg, low, high, color=curve.colour, linewidth=1.2)
    if len(trained) > 1:  # a level to compare the other curves with
      axes.axhline(value[0], color=curve.colour, linestyle=curve.style, linewidth=0.8, alpha=0.6)
  axes.xaxis.set_major_locator(MaxNLocator(6) if len(trained) > 1 else FixedLocator(trained))
  drawn = [value for curve in lines for point in curve.points[name]
           for value in (point[1:2] if curve.is_level else point[1:])]
  if 0 < _LOG_RATIO * np.nanmin(drawn) < np.nanmax(drawn):
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axes.yaxis.set_minor_formatter(NullFormatter())
