"""The metrics of every pair of image and mask, as columns and as a CSV file."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import io
import os

import numpy as np

from eval.metrics.names import PAIR_METRICS
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, new_files

FILE = 'per_image.csv'

_KEYS = ('system', 'masks', 'image_index', 'image', 'mask', 'hole_ratio')


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Metrics of n pairs of image and mask, for one or several systems.

  Attributes:
    masks: str [n], the set of masks: 'large', 'small', or 'files'.
    image_index: int [n], the image's number.
    image: str [n], its name.
    mask: int [n], the mask's number among those of the image.
    hole_ratio: float [n], the share of the image that is hole, NaN without masks.
    metrics: {system: {metric: float64 [n]}}.
  """

  masks: np.ndarray
  image_index: np.ndarray
  image: np.ndarray
  mask: np.ndarray
  hole_ratio: np.ndarray
  metrics: Mapping[str, Mapping[str, np.ndarray]]

  def __len__(self) -> int:
    return len(self.image_index)

  def where(self, chosen: np.ndarray) -> 'Pairs':
    """The pairs that a mask, or an array of positions, selects."""
    return Pairs(
        **{field.name: getattr(self, field.name)[chosen]
           for field in dataclasses.fields(self)[:-1]},
        metrics={system: {name: values[chosen] for name, values in metrics.items()}
                 for system, metrics in self.metrics.items()})

  def keys(self) -> list[tuple[str, str, int]]:
    """What identifies each pair: set of masks, name of the image, number of the mask."""
    return list(zip(self.masks.tolist(), self.image.tolist(), self.mask.tolist(), strict=True))


def join(parts: list[Pairs]) -> Pairs:
  """Several tables of the same systems and metrics, one behind the other."""
  first = parts[0]
  return Pairs(
      **{field.name: np.concatenate([getattr(part, field.name) for part in parts])
         for field in dataclasses.fields(first)[:-1]},
      metrics={system: {name: np.concatenate([part.metrics[system][name] for part in parts])
                        for name in metrics} for system, metrics in first.metrics.items()})


def match(ours: Pairs, theirs: Pairs) -> tuple[np.ndarray, np.ndarray]:
  """Positions of the pairs that both tables have.

  Returns:
    Two int arrays of one length; position i of the first and of the second are the same
    pair.
  """
  place = {key: i for i, key in enumerate(theirs.keys())}
  common = [(i, place[key]) for i, key in enumerate(ours.keys()) if key in place]
  our_places, their_places = np.array(common, int).reshape(-1, 2).T
  return our_places, their_places


def write_csv(pairs: Pairs, path: str) -> None:
  """Writes a row for every system and pair; inf and nan are written as such.

  Raises:
    UserError: it cannot be written.
  """
  names = [name for name in PAIR_METRICS
           if any(name in metrics for metrics in pairs.metrics.values())]
  with new_files.new_file(path) as raw:
    lines: list[Sequence[object]] = [[*_KEYS, *names]]
    for system, metrics in pairs.metrics.items():
      columns = [[system] * len(pairs), pairs.masks.tolist(), pairs.image_index.tolist(),
                 pairs.image.tolist(), pairs.mask.tolist(),
                 [f'{ratio:.6f}' for ratio in pairs.hole_ratio]]
      columns += [[f'{value:.9g}' for value in metrics[name]] if name in metrics
                  else [''] * len(pairs) for name in names]
      lines += zip(*columns, strict=True)
    raw.write(_as_csv(lines))


def _as_csv(lines: Iterable[Sequence[object]]) -> bytes:
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(lines)
  # File names are bytes; what is no UTF-8 has to be found again all the same.
  return text.getvalue().encode(errors='surrogateescape')


def read_csv(path: str) -> Pairs:
  """Reads what `write_csv` wrote.

  Raises:
    UserError: it is missing, or not such a file.
  """
  try:
    with buckets.open_text(path, errors='surrogateescape', newline='') as file:
      rows = list(csv.DictReader(file, strict=True))
    if not rows:
      raise ValueError('it has no rows')
    return _from_rows(rows)
  except FileNotFoundError as error:
    raise UserError(f'there is no {os.path.basename(path)} in {os.path.dirname(path)}; evaluate '
                    'first, with --mode=eval') from error
  except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
    raise UserError(f'{path} cannot be read ({error}); evaluate again') from error


def _from_rows(rows: list[dict[str, str]]) -> Pairs:
  systems: dict[str, list[dict[str, str]]] = {}
  for row in rows:
    systems.setdefault(row['system'], []).append(row)
  first = next(iter(systems.values()))
  keys = [[row[name] for name in _KEYS[1:5]] for row in first]
  metrics = {}
  for system, own in systems.items():
    if [[row[name] for name in _KEYS[1:5]] for row in own] != keys:
      raise ValueError(f'{system} has other pairs than {first[0]["system"]}')
    metrics[system] = {name: np.array([float(row[name]) for row in own])
                       for name in PAIR_METRICS if own[0].get(name)}
  masks, index, image, mask = zip(*keys, strict=True)
  return Pairs(np.array(masks), np.array(index, int), np.array(image), np.array(mask, int),
               np.array([float(row['hole_ratio']) for row in first]), metrics)
