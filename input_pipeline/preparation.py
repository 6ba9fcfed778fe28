"""What preparation does to an image, and what it keeps of a collection.

Nothing here knows TFDS or Beam; `wikiart_portraits` writes the results.
"""

import bisect
from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import io
from typing import Any

from PIL import Image

from input_pipeline import images
from input_pipeline.ahead import in_order
from input_pipeline.portraits import SPLITS, Portraits, draw_splits
from mat_jax.errors import UserError

# A picture longer than that is no portrait, and its resized form might not fit memory.
_MAX_ASPECT_RATIO = 16


@dataclasses.dataclass(frozen=True)
class Prepared:
  """An image after preparation.

  Attributes:
    name: relative to its collection.
    digest: of its resized pixels; '' for a broken one.
    problem: what is wrong with a broken one, else ''.
    data: JPEG, b'' for a broken one.
  """
  name: str
  digest: str = ''
  problem: str = ''
  data: bytes = b''


@dataclasses.dataclass(frozen=True)
class Plan:
  """What becomes of the images of a collection.

  Attributes:
    splits: split -> positions of its images in the collection, in order.
    broken: name and problem of those left out.
    duplicates: names of those left out, and of the ones that they repeat.
  """
  splits: dict[str, list[int]]
  broken: list[tuple[str, str]]
  duplicates: list[tuple[str, str]]

  def place(self, split: str, position: int) -> int | None:
    """Returns the place of an image within a split, None if it is not in it."""
    place = bisect.bisect_left(self.splits[split], position)
    found = place < len(self.splits[split]) and self.splits[split][place] == position
    return place if found else None

  def report(self) -> dict[str, Any]:
    """Returns the plan for people, ready for JSON."""
    return {
        'images': sum(map(len, self.splits.values())),
        'splits': {name: len(part) for name, part in self.splits.items()},
        'broken': [{'name': name, 'problem': problem} for name, problem in self.broken],
        'duplicates': [{'name': name, 'same_as': other} for name, other in self.duplicates],
    }


def prepare_image(portraits: Portraits, position: int, resolution: int, quality: int) -> Prepared:
  """Reads an image, resizes its short side and encodes it as JPEG without subsampling.

  Args:
    portraits: the collection.
    position: of the image.
    resolution: length of the short side, in pixels.
    quality: of the JPEG, 1 to 100.
  """
  name = portraits.source.name(portraits.positions[position])
  try:
    data = portraits.source.read(portraits.positions[position])
    image = _resize(images.decode(data, resolution), resolution)
  # Archives and decoders meet broken files with errors of many types.
  except Exception as error:
    return Prepared(name, problem=images.reason(error))
  digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
  encoded = io.BytesIO()
  image.save(encoded, 'JPEG', quality=quality, subsampling=0)
  return Prepared(name, digest, data=encoded.getvalue())


def _resize(image: Image.Image, resolution: int) -> Image.Image:
  short = min(image.size)
  if max(image.size) > _MAX_ASPECT_RATIO * short:
    raise ValueError(f'{image.width} x {image.height} pixels, too long for its width')
  size = tuple(round(side * resolution / short) for side in image.size)
  return image.resize(size, images.RESAMPLING)


def prepare_images(portraits: Portraits, resolution: int, quality: int) -> Iterator[Prepared]:
  """All images of a collection after preparation, in order, on all cores."""
  return in_order(
      lambda position: prepare_image(portraits, position, resolution, quality),
      range(len(portraits)))


def plan(prepared: Sequence[Prepared], split_seed: int) -> Plan:
  """Decides which images stay and in which split.

  Args:
    prepared: all images of a collection in order; their data do not matter.
    split_seed: of the shuffle, see `Portraits.split`.

  Returns:
    The plan: broken images and all but the first of equal ones are out.

  Raises:
    UserError: fewer images left than there are splits.
  """
  kept: dict[str, int] = {}
  broken, duplicates = [], []
  for position, image in enumerate(prepared):
    if image.problem:
      broken.append((image.name, image.problem))
    elif kept.setdefault(image.digest, position) != position:
      duplicates.append((image.name, prepared[kept[image.digest]].name))
  positions = list(kept.values())
  if len(positions) < len(SPLITS):
    example = f', {broken[0][0]!r} because of {broken[0][1]!r}' if broken else ''
    raise UserError(f'{len(positions)} of {len(prepared)} images can be used, too few for the '
                    f'splits; {len(broken)} cannot be read{example}')
  splits = draw_splits(len(positions), split_seed)
  return Plan({name: sorted(positions[i] for i in splits[name]) for name in SPLITS}, broken,
              duplicates)
