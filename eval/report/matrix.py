"""Correlations between the metrics of pairs: the report's second figure."""

from collections.abc import Mapping
import math
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
import numpy as np
from scipy import stats

from eval.metrics.names import METRICS

MAX_POINTS = 4000
# Share of the points that each line of a curve is fitted to, and how many it takes at least.
SPAN, MIN_POINTS = 0.5, 20
_CELL, _MARGIN = 1.3, 0.6  # inches
_POINT_COLOUR, _LINE_COLOUR = '#0072b2', '#d55e00'


class Matrix(NamedTuple):
  """Metrics of the pairs that have a finite value of all of them.

  Attributes:
    values: metric -> float64 [n].
    left_out: number of pairs with an infinite or undefined value.
    undefined: metrics that no pair has a finite value of.
    correlations: (metric, later metric) -> Spearman's rank correlation, None if undefined.
  """

  values: Mapping[str, np.ndarray]
  left_out: int
  undefined: list[str]
  correlations: Mapping[tuple[str, str], float | None]

  @property
  def n(self) -> int:
    return len(next(iter(self.values.values()), ()))


def matrix(metrics: Mapping[str, np.ndarray]) -> Matrix:
  """Correlates the metrics of one system.

  Args:
    metrics: metric -> [pairs].

  Returns:
    A `Matrix`.
  """
  undefined = [name for name, values in metrics.items() if not np.isfinite(values).any()]
  known = {name: values for name, values in metrics.items() if name not in undefined}
  if not known:
    return Matrix({}, 0, undefined, {})
  finite = np.all([np.isfinite(values) for values in known.values()], axis=0)
  values = {name: np.asarray(column[finite], np.float64) for name, column in known.items()}
  names = list(values)
  return Matrix(values, int((~finite).sum()), undefined, {
      (first, second): rank_correlation(values[first], values[second])
      for i, first in enumerate(names) for second in names[i + 1:]})


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
  """Spearman's rank correlation of [n] and [n]; None for constants and below three values."""
  if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
    return None
  return float(stats.spearmanr(x, y).statistic)


def smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """A curve through points: locally weighted straight lines.

  Cleveland, "Robust locally weighted regression and smoothing scatterplots", JASA 1979,
  without its repetitions against outliers. A polynomial through all points would turn back
  where one metric saturates.

  Args:
    x: [n].
    y: [n].

  Returns:
    Coordinates of the curve, [60] and [60], over the range of x; None for constant x.
  """
  if not len(x) or np.ptp(x) == 0:
    return None
  at = np.linspace(x.min(), x.max(), 60)
  distance = np.abs(x - at[:, None])
  last = min(max(math.ceil(SPAN * len(x)), MIN_POINTS), len(x) - 1)
  # At least a step of the curve, as all neighbours may have the same x; and a bit more than
  # the distance of the last, as all may have the same distance.
  width = 1.01 * np.maximum(np.partition(distance, last)[:, last], at[1] - at[0])
  weight = np.clip(1 - (distance / width[:, None]) ** 3, 0, None) ** 3
  weight /= weight.sum(1, keepdims=True)
  centre, level = weight @ x, weight @ y
  offset = x - centre[:, None]
  variance = np.sum(weight * offset**2, 1)
  slope = np.divide(np.sum(weight * offset * y, 1), variance, out=np.zeros_like(at),
                    where=variance > 1e-12 * np.ptp(x) ** 2)
  return at, level + slope * (at - centre)


def draw(found: Matrix) -> Figure:
  """Draws points and curves below the diagonal, histograms on it, correlations above it.

  Args:
    found: of at least one metric and pair.

  Returns:
    The figure.
  """
  names = list(found.values)
  width, height = _CELL * len(names) + _MARGIN, _CELL * len(names) + _MARGIN
  figure = Figure(figsize=(width, height))
  figure.subplots_adjust(left=_MARGIN / width, bottom=_MARGIN / height, right=0.995, top=0.995,
                         wspace=0.08, hspace=0.08)
  panels = figure.subplots(len(names), len(names), squeeze=False)
  shown: slice | np.ndarray = slice(None)
  if found.n > MAX_POINTS:
    shown = np.random.default_rng(0).choice(found.n, MAX_POINTS, replace=False)
  for i, below in enumerate(names):
    for j, left in enumerate(names):
      axes = panels[i, j]
      if i > j:
        _draw_points(axes, found.values[left], found.values[below], shown)
      elif i == j:
        _draw_histogram(axes, found.values[left])
      else:
        _draw_correlation(axes, found.correlations[below, left])
      _label(axes, left if i == len(names) - 1 else '', below if j == 0 else '', i > j)
  figure.align_labels()
  return figure


def _draw_points(axes: Axes, x: np.ndarray, y: np.ndarray, shown: slice | np.ndarray) -> None:
  size = 5 if len(x) > 100 else 14
  axes.scatter(x[shown], y[shown], s=size, alpha=0.4, linewidths=0, color=_POINT_COLOUR)
  if curve := smooth(x[shown], y[shown]):
    axes.plot(*curve, color=_LINE_COLOUR, linewidth=1.4)
  axes.set_xlim(_limits(x))
  axes.set_ylim(_limits(y))


def _draw_histogram(axes: Axes, x: np.ndarray) -> None:
  axes.hist(x, bins=20, range=_limits(x), color=_POINT_COLOUR, alpha=0.7)
  axes.set_xlim(_limits(x))


def _draw_correlation(axes: Axes, correlation: float | None) -> None:
  if correlation is None:
    text, colour = 'undefined', 'black'
  else:
    text, colour = f'{correlation:+.2f}', 'white' if abs(correlation) > 0.6 else 'black'
    axes.set_facecolor(matplotlib.colormaps['RdBu'](0.5 + 0.4 * correlation))
  axes.text(0.5, 0.5, text.replace('-', '\N{MINUS SIGN}'), transform=axes.transAxes, color=colour,
            ha='center', va='center', fontsize=9 if correlation is None else 13)


def _label(axes: Axes, x_name: str, y_name: str, has_scale: bool) -> None:
  """Names and numbers at the left and the bottom edge of the figure only."""
  axes.tick_params(labelsize=7.5)
  axes.set_xticks(_inner_ticks(axes.get_xlim()) if x_name else [])
  axes.set_yticks(_inner_ticks(axes.get_ylim()) if y_name and has_scale else [])
  if x_name:
    axes.set_xlabel(METRICS[x_name].title, fontsize=8.5)
  if y_name:
    axes.set_ylabel(METRICS[y_name].title, fontsize=8.5)


def _inner_ticks(limits: tuple[float, float]) -> list[float]:
  """Round numbers away from the corners, where they would touch those of the next panel."""
  low, high = limits
  ticks = MaxNLocator(4).tick_values(low, high)
  return [tick for tick in ticks if 0.12 < (tick - low) / (high - low) < 0.88]


def _limits(values: np.ndarray) -> tuple[float, float]:
  low, high = float(values.min()), float(values.max())
  margin = 0.05 * (high - low) or max(abs(low) * 0.05, 1e-3)
  return low - margin, high + margin
