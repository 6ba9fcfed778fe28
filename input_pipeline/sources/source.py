"""The interface of all kinds of image data sets, and which paths may be read for them."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from mat_jax.errors import UserError


class Source(Protocol):
  """A data set of encoded images in a fixed order; safe to read from many threads.

  Attributes:
    location: the file or folder that it was opened from, as the user wrote it.
    splits: positions of the stored splits; None when it is not split yet.
    split_seed: seed of the stored splits, if known.
    resolution: length that the images' short sides were resized to when they were
      stored, if known.
  """

  location: str
  splits: Mapping[str, range] | None
  split_seed: int | None
  resolution: int | None

  def __len__(self) -> int:
    """Returns the number of images."""

  def name(self, index: int) -> str:
    """Returns the name of an image: a relative POSIX path, unique, sorted."""

  def read(self, index: int) -> bytes:
    """Returns the encoded image; raises any exception when it cannot be read."""


class Unsplit:
  """The attributes of a source that is what the user put there."""

  splits: Mapping[str, range] | None = None
  split_seed: int | None = None
  resolution: int | None = None


def check_names(names: Iterable[str], where: str) -> None:
  """Raises a UserError for a name that leads out of the folder it is relative to.

  Args:
    names: as an archive or a table has them.
    where: which one, for the message.
  """
  for name in names:
    # What Windows separates by is checked too: the archive may come from there.
    parts = name.replace('\\', '/').split('/')
    if '..' in parts or not parts[0] or ':' in parts[0]:
      raise UserError(
          f'{where!r} names {name!r}, which lies outside of it; take that entry out')
