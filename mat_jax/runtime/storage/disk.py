"""Reads files although disks fail for moments, and tells such errors from wrong contents.

A network disk that does not answer, a missing permission or too many open files say nothing
about what was stored. Only contents that are proven to be wrong may cost a checkpoint its name.
"""

from collections.abc import Callable
import errno
import json
import os
import re
import stat
import time
from typing import Any, NamedTuple, TypeVar

from absl import logging

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets

T = TypeVar('T')

# Seconds before a read is tried again.
DELAYS = (0.5, 1.0, 2.0)

# What Python, Orbax and TensorStore raise when they read.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError)
# The system's answers that say that something else is stored, or nothing.
_WRONG_CODES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# TensorStore raises ValueErrors, whose text begins with a status, other than for
# INVALID_ARGUMENT; some texts end with payloads, among which is the system's error number.
_WRONG_STATUS = re.compile(
    r'(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|FAILED_PRECONDITION): |Error .*Error decoding ')
_SYSTEM_CODE = re.compile(r"\[os_error_code='(\d+)'\]")
_PAYLOADS = re.compile(r'\s*\[[\w ]+(\[\d+\])?[=:]')
# TensorFlow names its operation first.
_OPERATION = re.compile(r'\{\{.*?\}\} ')


class Fault(NamedTuple):
  """Classification of an error of a read or write.

  Attributes:
    is_damage: whether the contents are proven to be wrong: missing, or against their checksum
      or structure.
    is_system: whether the operating system reported it.
    reason: in a few words.
  """

  is_damage: bool
  is_system: bool
  reason: str


class DamagedError(Exception):
  """Contents are proven to be wrong; the text is the reason."""


class UnreachableError(UserError):
  """Something cannot be read, which says nothing about its contents.

  Attributes:
    path: what cannot be read.
    reason: in a few words.
  """

  def __init__(self, path: str, reason: str):
    super().__init__(
        f'{path} cannot be read ({reason}), also after {len(DELAYS) + 1} attempts; nothing has '
        'been changed, start again when the disk answers and lets it be read')
    self.path, self.reason = path, reason


def classify(error: Exception) -> Fault:
  """Classifies an error of Python, Orbax, TensorStore or TensorFlow.

  An unknown error is no proof of damage.
  """
  text, code = _first_line(error), _SYSTEM_CODE.search(str(error))
  if isinstance(error, OSError):
    return Fault(error.errno in _WRONG_CODES, True, error.strerror or text)
  if code:
    return Fault(int(code[1]) in _WRONG_CODES, True, os.strerror(int(code[1])))
  is_damage = (isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
               or bool(_WRONG_STATUS.match(text)))
  return Fault(is_damage, False, text)


def _first_line(error: Exception) -> str:
  text = _PAYLOADS.split(_OPERATION.sub('', str(error)), maxsplit=1)[0]
  lines = text.splitlines()
  return lines[0] if lines else type(error).__name__


def retried(act: Callable[[], T], path: str,
            errors: tuple[type[Exception], ...] = _READ_ERRORS) -> T:
  """Does something, again after each of the `DELAYS` while its error is no proof of damage.

  Args:
    act: may be called several times.
    path: what it is about, for the log.
    errors: those that may pass; others are raised at once.

  Raises:
    The error of the last attempt.
  """
  for delay in DELAYS:
    try:
      return act()
    except errors as error:
      fault = classify(error)
      if fault.is_damage:
        raise
      logging.warning('%s: %s. It is tried again in %g s.', path, fault.reason, delay)
    time.sleep(delay)
  return act()


def read(act: Callable[[], T], path: str) -> T:
  """Calls a function that reads, again as in `retried`; returns its result.

  Args:
    act: only reads.
    path: what it reads.

  Raises:
    DamagedError: the contents are missing or proven to be wrong.
    UnreachableError: it cannot be read, for another reason.
  """
  try:
    return retried(act, path)
  except _READ_ERRORS as error:
    fault = classify(error)
    if fault.is_damage:
      raise DamagedError(fault.reason) from error
    raise UnreachableError(path, fault.reason) from error


def listed(folder: str) -> list[str]:
  """The names in a folder, none if there is no such folder; UnreachableError as in `read`."""
  list_names = buckets.listed if buckets.is_address(folder) else os.listdir
  try:
    return read(lambda: list_names(folder), folder)
  except DamagedError:
    return []


def status(path: str) -> os.stat_result | None:
  """The status of what is at a path of a disk, None for nothing; UnreachableError as in `read`."""
  try:
    return read(lambda: os.stat(path), path)
  except DamagedError:
    return None


def exists(path: str) -> bool:
  """Whether there is anything at a path; UnreachableError as in `read`."""
  if buckets.is_address(path):
    return bool(listed(path)) or read(lambda: buckets.read(path), path).data is not None
  return status(path) is not None


def is_folder(path: str) -> bool:
  """Whether there is a folder at a path; UnreachableError as in `read`."""
  if buckets.is_address(path):
    return bool(listed(path))
  found = status(path)
  return found is not None and stat.S_ISDIR(found.st_mode)


def load_json(file: str) -> Any:
  """The JSON value in a file; DamagedError and UnreachableError as in `read`."""
  return read(lambda: json.loads(buckets.read_file(file).decode()), file)
