"""Images in a zip archive, read where they are."""

import pathlib
import zipfile

from input_pipeline.sources.source import Unsplit, check_names
from mat_jax.errors import UserError
from mat_jax.runtime import images

_ENCRYPTED = 0x1  # bit of a member's flags


class ZipSource(Unsplit):
  """The image files of a zip archive; nothing is unpacked to disk."""

  def __init__(self, location: str, path: pathlib.Path):
    """Lists an archive.

    Args:
      location: the archive, as the user wrote it.
      path: the archive.

    Raises:
      UserError: no zip archive, one without images, members that lead out of it or
        need a password.
    """
    self.location = location
    try:
      self._zip = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
      raise UserError(f'{location!r} is not a readable zip archive ({error})') from error
    check_names(self._zip.namelist(), location)
    members = {info.filename: info for info in self._zip.infolist() if _is_image(info)}
    if not members:
      raise UserError(f'the archive {location!r} holds no images; give one with .jpg, .png, .webp '
                      'or other image files')
    if any(info.flag_bits & _ENCRYPTED for info in members.values()):
      raise UserError(f'the archive {location!r} needs a password; unpack it and give the folder')
    self._members = [members[name] for name in sorted(members)]

  def __len__(self) -> int:
    return len(self._members)

  def name(self, index: int) -> str:
    return self._members[index].filename

  def read(self, index: int) -> bytes:
    # Members share the archive's file under a lock of the library's.
    with self._zip.open(self._members[index]) as file:
      return images.read_limited(file)


def _is_image(info: zipfile.ZipInfo) -> bool:
  parts = info.filename.split('/')
  hidden = any(part.startswith('.') for part in parts) or parts[0] == '__MACOSX'
  return not hidden and images.has_image_suffix(parts[-1])
