"""Pictures that show nearly the same: another scan, a retouched, recoloured or mirrored version."""

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image, ImageOps

from mat_jax.runtime import images

# Side of the perceptual hash: unrelated pictures with 8 bits a side are as near as versions of one.
_HASH_SIDE = 16
BITS = _HASH_SIDE**2
_GREY = 110  # that figures without a background are laid on
_OPAQUE = 128  # alpha of what counts for a figure's extent
_MAX_SIDE = 512  # pixels; the hash shrinks to 64

# Perceptual hash of a picture and of its mirror image, of `BITS` / 8 bytes each.
Fingerprint = tuple[bytes, bytes]


def fingerprint(image: Image.Image) -> Fingerprint:
  """Takes the perceptual hashes (pHash: signs of low frequencies) of a picture.

  Of a figure that was cut out only its own extent counts, not the empty margin.

  Args:
    image: of any mode.

  Returns:
    The hashes of the picture and of its mirror image.
  """
  grey = _figure(image).convert('L')
  return _hash(grey), _hash(ImageOps.mirror(grey))


def _hash(image: Image.Image) -> bytes:
  return np.packbits(imagehash.phash(image, hash_size=_HASH_SIDE).hash).tobytes()


def _figure(image: Image.Image) -> Image.Image:
  """Cuts a picture to what is opaque, on grey."""
  alpha = images.alpha(image)
  if alpha is None:
    image = images.to_rgb(image).copy()
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return image
  image = image.convert('RGBA')
  rows, columns = np.nonzero(alpha >= _OPAQUE)
  if len(rows):
    image = image.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
  image.thumbnail((_MAX_SIDE, _MAX_SIDE))
  return Image.alpha_composite(Image.new('RGBA', image.size, (_GREY, _GREY, _GREY, 255)), image)


def groups(fingerprints: Sequence[Fingerprint], distance: int) -> list[list[int]]:
  """Puts pictures together that are near each other, directly or by way of others.

  Args:
    fingerprints: of the pictures.
    distance: largest number of differing bits that counts as near, of `BITS`.

  Returns:
    Positions of the pictures, each in one group, in order within a group; the groups in the
    order of their first ones.
  """
  hashes = np.array([[np.frombuffer(side, np.uint64) for side in pair] for pair in fingerprints])
  first = list(range(len(fingerprints)))  # an earlier picture of the group; the first names itself

  def root(position: int) -> int:
    while first[position] != position:
      first[position] = first[first[position]]
      position = first[position]
    return position

  for i in range(1, len(fingerprints)):
    for j in np.flatnonzero(_distances(hashes[:i], hashes[i, 0]) <= distance):
      a, b = sorted((root(i), root(int(j))))
      first[b] = a
  found: dict[int, list[int]] = {}
  for i in range(len(fingerprints)):
    found.setdefault(root(i), []).append(i)
  return list(found.values())


def _distances(hashes: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Counts differing bits: uint64 [N, 2, W] and [W] -> int [N], the smaller one of both sides."""
  return np.bitwise_count(hashes ^ other).sum(-1, dtype=np.int64).min(1)
