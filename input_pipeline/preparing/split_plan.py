"""Which images of a data set preparation keeps, and in which split."""

import bisect
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any, cast

from input_pipeline.image_dataset import SPLITS, draw_splits
from input_pipeline.preparing import attribution, name_lists
from input_pipeline.preparing.preparation import Prepared, Settings
from mat_jax.errors import UserError

# Names of a picture that is left out, and of the one that it is like.
_Pairs = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What happens to the images of a data set.

  Attributes:
    splits: split -> positions of its images in the data set, in order.
    starts: split -> number of the first record of each of these images, and the number of all.
    broken: name and problem of those left out.
    duplicates: names of those left out, and of the ones that they repeat.
    like_held_out: names of those left out for being near a held-out one, and of that one.
    near_duplicates: names of those that were kept on one side, in groups.
    left_out: names of those that the user left out.
    credits: see `attribution.collect`.
  """
  splits: dict[str, list[int]]
  starts: dict[str, list[int]]
  broken: _Pairs
  duplicates: _Pairs
  like_held_out: _Pairs
  near_duplicates: list[list[str]]
  left_out: list[str]
  credits: list[dict[str, Any]]

  def places(self, split: str, position: int) -> range:
    """Returns the numbers of an image's records within a split; none if it is not in it."""
    place = bisect.bisect_left(self.splits[split], position)
    if place == len(self.splits[split]) or self.splits[split][place] != position:
      return range(0)
    return range(*self.starts[split][place:place + 2])

  def report(self) -> dict[str, Any]:
    """Returns the plan for people, ready for JSON."""
    return {
        'images': sum(map(len, self.splits.values())),
        'splits': {name: len(part) for name, part in self.splits.items()},
        'records': {name: starts[-1] for name, starts in self.starts.items()},
        'broken': [{'name': name, 'problem': problem} for name, problem in self.broken],
        'duplicates': [{'name': name, 'same_as': other} for name, other in self.duplicates],
        'like_held_out': [{'name': name, 'like': other} for name, other in self.like_held_out],
        'near_duplicates': self.near_duplicates,
        'left_out': self.left_out,
        'credits': self.credits,
    }


def plan(prepared: Sequence[Prepared], settings: Settings) -> Plan:
  """Decides which images stay and in which split.

  Broken images, all but the first of equal ones and what is near a held-out one are out. Near
  duplicates are in one split. Training gets all crops of an image, validation and test the first.

  Args:
    prepared: all images of a data set in order; their data do not matter.
    settings: how.

  Returns:
    The plan.

  Raises:
    UserError: fewer images or groups of near duplicates left than there are splits.
  """
  held_out = {position for position, image in enumerate(prepared)
              if name_lists.matches(image.name, settings.held_out)}
  kept, duplicates = _distinct(prepared, held_out)
  groups = _groups(prepared, kept, settings.near_duplicates)
  near_test, groups, grouped = _apart(prepared, groups, held_out)
  broken = [(image.name, image.problem) for image in prepared if image.problem]
  splits = _draw(groups, sorted(held_out & set(kept)), settings)
  if splits is None:
    raise UserError(_too_few(len(kept), len(groups), len(prepared), broken))
  names = [prepared[i].name for i in sorted(itertools.chain.from_iterable(splits.values()))]
  return Plan(
      splits, {name: _starts(prepared, name, part) for name, part in splits.items()}, broken,
      duplicates, near_test, grouped, [image.name for image in prepared if image.left_out],
      attribution.collect(names, settings.credits))


def _distinct(prepared: Sequence[Prepared], held_out: set[int]) -> tuple[list[int], _Pairs]:
  """Returns the positions of different images, held-out ones before others, and the rest."""
  kept: dict[str, int] = {}
  repeated = []
  order = sorted(range(len(prepared)), key=lambda position: position not in held_out)
  for position in order:
    digest = prepared[position].digest
    if digest and kept.setdefault(digest, position) != position:
      repeated.append(position)
  duplicates = [(prepared[position].name, prepared[kept[prepared[position].digest]].name)
                for position in sorted(repeated)]
  return sorted(kept.values()), duplicates


def _groups(prepared: Sequence[Prepared], kept: list[int], distance: int) -> list[list[int]]:
  if distance < 0 or not kept:
    return [[position] for position in kept]
  from input_pipeline.preparing import near_duplicates
  # Those of a distance all have one.
  fingerprints = cast(
      list[near_duplicates.Fingerprint], [prepared[position].fingerprint for position in kept])
  found = near_duplicates.groups(fingerprints, distance)
  return [[kept[i] for i in group] for group in found]


def _apart(
    prepared: Sequence[Prepared], groups: list[list[int]], held_out: set[int]
) -> tuple[_Pairs, list[list[int]], list[list[str]]]:
  """Takes groups with held-out images away.

  Returns:
    What of them is not held out with the first that is, the other groups, and the names of
    those that have more than one image.
  """
  near, others = [], []
  for group in groups:
    test = [position for position in group if position in held_out]
    if test:
      near += [(prepared[position].name, prepared[test[0]].name)
               for position in group if position not in held_out]
    else:
      others.append(group)
  grouped = [[prepared[position].name for position in group] for group in others if len(group) > 1]
  return near, others, grouped


def _draw(
    groups: list[list[int]], test: list[int], settings: Settings) -> dict[str, list[int]] | None:
  """Chooses the splits at random; None if one would be empty."""
  drawn = SPLITS[:2] if settings.held_out else SPLITS
  if len(groups) < len(drawn) or settings.held_out and not test:
    return None
  parts = draw_splits(len(groups), settings.split_seed, with_test=not settings.held_out)
  splits = {name: sorted(position for i in parts[name] for position in groups[i])
            for name in drawn}
  return {**splits, **({'test': test} if settings.held_out else {})}


def _starts(prepared: Sequence[Prepared], split: str, positions: list[int]) -> list[int]:
  counts = [len(prepared[position].records) if split == 'train' else 1 for position in positions]
  return [0, *itertools.accumulate(counts)]


def _too_few(kept: int, groups: int, count: int, broken: _Pairs) -> str:
  example = f', {broken[0][0]!r} because of {broken[0][1]!r}' if broken else ''
  near = f' ({groups} without held-out ones and near duplicates)' if groups < kept else ''
  return (f'{kept} of {count} images can be used{near}, too few for the splits; {len(broken)} '
          f'cannot be read{example}')
