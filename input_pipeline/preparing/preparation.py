"""The preparation of an image: resizing, backgrounds, crops, JPEG encoding.

This module does not depend on TFDS or Beam; `split_plan` decides which images are kept, and
`wikiart_portraits` writes the results.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import io
import os

import numpy as np
from PIL import Image

from input_pipeline.ahead import in_order
from input_pipeline.image_dataset import ImageDataset
from input_pipeline.preparing import backgrounds, crops, heads, name_lists
from input_pipeline.preparing.attribution import Row
from mat_jax.runtime import images

TRANSPARENCIES = ('white', 'muted')
# A picture longer than that is no portrait, and might not fit into memory after resizing.
_MAX_ASPECT_RATIO = 16
# How many times larger than the result a picture with transparency is laid on its background.
_MAX_SHRINKING = 4
_MAX_ENLARGEMENT = 1.25  # of a crop around the head


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of preparation and splits.

  Attributes:
    resolution: length of the short side, in pixels.
    quality: of the JPEGs, 1 to 100.
    transparency: 'white', or 'muted' for backgrounds of `backgrounds.lay_on_muted`.
    crops: kinds of squares that are cut, see `crops.crop_box`; none for the whole picture.
    near_duplicates: largest distance of pictures that are kept on one side of the split, see
      `near_duplicates.groups`; -1 for none.
    held_out: names of the test split, see `name_lists.matches`; without any it is random.
    leave_out: names of pictures that are not read, unless they are held out.
    credits: who made the pictures, for the report.
    split_seed: see `ImageDataset.split`.
  """
  resolution: int = 256
  quality: int = 95
  transparency: str = 'white'
  crops: tuple[str, ...] = ()
  near_duplicates: int = -1
  held_out: tuple[str, ...] = ()
  leave_out: tuple[str, ...] = ()
  credits: tuple[Row, ...] = ()
  split_seed: int = 123


@dataclasses.dataclass(frozen=True)
class Prepared:
  """An image after preparation.

  Attributes:
    name: relative to its data set.
    digest: of its resized pixels; '' for a broken one and for one that is left out.
    problem: what is wrong with a broken one, else ''.
    fingerprint: see `near_duplicates.fingerprint`; None where it is not asked for.
    records: names of what is stored of it: itself or its crops.
    data: JPEGs of these.
  """
  name: str
  digest: str = ''
  problem: str = ''
  fingerprint: tuple[bytes, bytes] | None = None
  records: tuple[str, ...] = ()
  data: tuple[bytes, ...] = ()

  @property
  def left_out(self) -> bool:
    """Whether a list left it out."""
    return not self.digest and not self.problem

  def without_data(self) -> 'Prepared':
    """Returns what is known of the image."""
    return dataclasses.replace(self, data=())


def prepare_image(portraits: ImageDataset, position: int, settings: Settings) -> Prepared:
  """Reads an image, resizes its short side and encodes it as JPEG without subsampling.

  Args:
    portraits: image data set.
    position: of the image.
    settings: how.
  """
  name = portraits.source.name(portraits.positions[position])
  if name_lists.matches(name, settings.leave_out) and not (
      name_lists.matches(name, settings.held_out)):
    return Prepared(name)
  if settings.near_duplicates >= 0:
    # A library that only this needs, and whose absence is no fault of the image.
    from input_pipeline.preparing import near_duplicates
  try:
    data = portraits.source.read(portraits.positions[position])
    image = images.decode_upright(data, None if settings.crops else settings.resolution)
    plain = _resize(images.to_rgb(image), settings.resolution)
    views = _views(image, plain, name, settings)
    fingerprint = None
    if settings.near_duplicates >= 0:
      fingerprint = near_duplicates.fingerprint(image)
  # Archives and decoders meet broken files with errors of many types.
  except Exception as error:
    return Prepared(name, problem=images.reason(error))
  # A background depends on the name, and would tell equal pictures apart.
  digest = hashlib.sha256(repr(plain.size).encode() + plain.tobytes()).hexdigest()
  encoded = tuple(_encode(view, settings.quality) for view in views.values())
  return Prepared(name, digest, fingerprint=fingerprint, records=tuple(views), data=encoded)


def _views(
    image: Image.Image, plain: Image.Image, name: str, settings: Settings
) -> dict[str, Image.Image]:
  """Makes what is stored of an image, by names."""
  alpha = images.alpha(image)
  if alpha is not None and settings.transparency == 'muted':
    stem = os.path.splitext(name)[0]
    image = backgrounds.lay_on_muted(_shrink(image, settings.resolution), stem)
    plain = _resize(image, settings.resolution)
  if not settings.crops:
    return {name: plain}
  return _cut(images.to_rgb(image), alpha, name, settings)


def _cut(
    image: Image.Image, alpha: np.ndarray | None, name: str, settings: Settings
) -> dict[str, Image.Image]:
  """Cuts the crops of an image, equal ones once."""
  opaque = np.full((image.height, image.width), 255, np.uint8) if alpha is None else alpha
  head = heads.find_head(opaque)
  if head is None:
    raise ValueError('hardly anything of it is opaque')
  # The head was found before the picture was shrunk.
  scale = image.width / opaque.shape[1]
  head = heads.Head(*(scale * value for value in head))
  stem, suffix = os.path.splitext(name)
  found: dict[crops.Box, str] = {}
  for kind in settings.crops:
    box = crops.crop_box(kind, image.size, head, round(settings.resolution / _MAX_ENLARGEMENT))
    found.setdefault(box, f'{stem}@{kind}{suffix}')
  size = (settings.resolution, settings.resolution)
  return {record: image.resize(size, images.RESAMPLING, box=box) for box, record in found.items()}


def _shrink(image: Image.Image, resolution: int) -> Image.Image:
  """Bounds the memory of a background; Pillow weighs colours by their alpha."""
  scale = _MAX_SHRINKING * resolution / min(image.size)
  image = image.convert('RGBA')
  if scale >= 1:
    return image
  width, height = (round(side * scale) for side in image.size)
  return image.resize((width, height), images.RESAMPLING)


def _resize(image: Image.Image, resolution: int) -> Image.Image:
  short = min(image.size)
  if max(image.size) > _MAX_ASPECT_RATIO * short:
    raise ValueError(f'{image.width} x {image.height} pixels, too long for its width')
  width, height = (round(side * resolution / short) for side in image.size)
  return image.resize((width, height), images.RESAMPLING)


def _encode(image: Image.Image, quality: int) -> bytes:
  encoded = io.BytesIO()
  image.save(encoded, 'JPEG', quality=quality, subsampling=0)
  return encoded.getvalue()


def prepare_images(portraits: ImageDataset, settings: Settings) -> Iterator[Prepared]:
  """All images of a data set after preparation, in order, on all cores."""
  return in_order(
      lambda position: prepare_image(portraits, position, settings), range(len(portraits)))
