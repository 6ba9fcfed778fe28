"""A part of a file that is read forwards, and what is left in the file."""

import dataclasses
from typing import BinaryIO

from convert.torch_files import limits

_BRIEF = 120  # characters


class FormatError(Exception):
  """The file is not what it should be; the message continues "the file ..."."""


@dataclasses.dataclass(frozen=True, slots=True)
class Blob:
  """Bytes (or the UTF-8 of a long text) left in the file.

  Attributes:
    file: the file.
    start: position of the first byte in it.
    length: number of bytes.
  """

  file: BinaryIO
  start: int
  length: int


class Window:
  """The bytes from `start` to `end` of a seekable file, read forwards and never left."""

  def __init__(self, file: BinaryIO, start: int, end: int):
    self._file, self._position, self._end = file, start, end
    file.seek(start)

  def read(self, length: int) -> bytes:
    """Returns the next bytes; raises `FormatError` where fewer are left."""
    self._advance(length)
    data = self._file.read(length)
    if len(data) != length:
      raise _cut_short()
    return data

  def skip(self, length: int) -> Blob:
    """Leaves the next bytes unread; raises `FormatError` where fewer are left."""
    blob = Blob(self._file, self._position, length)
    self._advance(length)
    self._file.seek(self._position)
    return blob

  def line(self) -> str:
    """Returns the text of the next line, without its end."""
    data = self._file.readline(limits.LINE + 1)
    if not data.endswith(b'\n'):
      raise FormatError(f'has a damaged pickle (a line without an end in {limits.LINE} bytes)')
    self._advance(len(data))
    return data[:-1].decode('raw-unicode-escape')  # what the oldest protocol writes

  def _advance(self, length: int) -> None:
    if length < 0 or length > self._end - self._position:
      raise _cut_short()
    self._position += length


def brief(message: object) -> str:
  """One short line of a message that quotes from the file, at any length."""
  return ' '.join(str(message).split())[:_BRIEF]


def _cut_short() -> FormatError:
  return FormatError('ends too early or is damaged (is the download complete?)')
