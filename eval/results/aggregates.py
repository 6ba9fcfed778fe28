"""From the metrics of pairs to what is reported: groups of pairs, means, differences."""

from collections.abc import Mapping, Sequence

import numpy as np

from eval.metrics.bootstrap import paired_difference, summarize
from eval.metrics.distances import Distance
from eval.results.pairs import Pairs
from eval.results.record import Group

# Bins of the hole ratio, lower end included, upper end excluded.
BINS = {'0-20 %': (0.0, 0.2), '20-40 %': (0.2, 0.4), '40-60 %': (0.4, 0.6),
        'above 60 %': (0.6, np.inf)}

Distances = Mapping[str, Mapping[str, Distance]]  # {system: {metric: Distance}}


def group(pairs: Pairs, comparisons: Sequence[tuple[str, str]], distances: Distances,
          seed: int = 0) -> Group:
  """Means, intervals and differences of some pairs.

  Args:
    pairs: at least one.
    comparisons: pairs of systems, of which the second is subtracted from the first.
    distances: of the same images.
    seed: of the bootstrap.

  Returns:
    A `Group`.
  """
  index = pairs.image_index
  metrics = {system: {name: summarize(values, index, seed) for name, values in columns.items()}
             for system, columns in pairs.metrics.items()}
  differences = {
      f'{ours} - {theirs}': {
          name: paired_difference(values, pairs.metrics[theirs][name], index, seed)
          for name, values in pairs.metrics[ours].items() if name in pairs.metrics[theirs]}
      for ours, theirs in comparisons}
  return Group(len(np.unique(index)), len(pairs), metrics, differences, distances)


def by_mask_set(pairs: Pairs, comparisons: Sequence[tuple[str, str]],
                distances: Mapping[str, Distances], seed: int = 0) -> dict[str, Group]:
  """A group for every set of masks, in order of appearance; see `group`."""
  return {name: group(pairs.where(pairs.masks == name), comparisons, distances.get(name, {}), seed)
          for name in dict.fromkeys(pairs.masks.tolist())}


def by_hole_ratio(pairs: Pairs, comparisons: Sequence[tuple[str, str]],
                  seed: int = 0) -> dict[str, Group]:
  """A group for every bin of `BINS` with pairs in it, over all sets of masks."""
  bins = {name: pairs.where((low <= pairs.hole_ratio) & (pairs.hole_ratio < high))
          for name, (low, high) in BINS.items()}
  return {name: group(part, comparisons, {}, seed) for name, part in bins.items() if len(part)}
