"""The files of a run's summary writer, put back to where its newest checkpoint was saved."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import json
import os
from typing import TypeVar

from absl import logging
from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2
import tensorflow as tf

from mat_jax.errors import UserError
from mat_jax.runtime.storage import disk

ROWS = 'stats.jsonl'
EVENTS = 'events.out.tfevents.'  # what the names of event files begin with
# TensorBoard would read a name with "tfevents" in it.
_PARTIAL = '.records.partial'
# Bytes of a TFRecord around its data: the length, its checksum and that of the data.
_FRAME = 16

T = TypeVar('T')


def remove_later(workdir: str, last: int) -> None:
  """Removes events and rows of steps after the last one, and truncated ones."""
  rows_path = os.path.join(workdir, ROWS)
  patiently(lambda: os.makedirs(workdir, exist_ok=True), workdir)
  events = sum(patiently(functools.partial(_remove_events, path, last), path)
               for path in patiently(lambda: _event_files(workdir), workdir))
  rows = patiently(lambda: _remove_rows(rows_path, last), rows_path)
  if events or rows:
    reason = ('there is no checkpoint' if last < 0
              else f'they are newer than the checkpoint of step {last}')
    logging.info('Removed %d events of TensorBoard and %d rows of %s: %s.', events, rows, ROWS,
                 reason)


def patiently(act: Callable[[], T], path: str) -> T:
  """Does something to a file, several times if need be; UserError when it cannot be done."""
  errors = (OSError, tf.errors.OpError)
  try:
    return disk.retried(act, path, errors)
  except errors as error:
    reason = disk.classify(error).reason.removeprefix(f'{path}; ')
    name = getattr(error, 'filename', None) or path
    raise UserError(f'the log {name} cannot be put back to the newest checkpoint: {reason}; '
                    'free the disk, make it writable, or start again when it answers') from error


def _event_files(workdir: str) -> list[str]:
  with os.scandir(workdir) as entries:
    return sorted(entry.path for entry in entries
                  if entry.name.startswith(EVENTS) and entry.is_file())


def _remove_events(path: str, last: int) -> int:
  """Removes the events after a step from a file; returns how many."""
  try:
    records = [(len(record) + _FRAME, _step(record)) for record in _complete_records(path)]
  except DecodeError:
    records = []
  torn = sum(size for size, _ in records) < os.path.getsize(path)
  if torn and not records:
    logging.warning('%s is no event file; it stays as it is.', path)
    return 0
  steps = [step for _, step in records if step is not None]
  kept = sum(step <= last for step in steps)
  removed = len(steps) - kept + torn
  if removed and not kept:
    os.remove(path)
  elif removed:
    _keep_events(path, last)
  return removed


def _keep_events(path: str, last: int) -> None:
  with _replacement(path) as partial, tf.io.TFRecordWriter(partial) as writer:
    for record in _complete_records(path):
      step = _step(record)
      if step is None or step <= last:
        writer.write(record)


def _complete_records(path: str) -> Iterator[bytes]:
  """The records before a truncated one, which no reader gets past."""
  with contextlib.suppress(tf.errors.DataLossError):
    yield from tf.data.TFRecordDataset(path).as_numpy_iterator()


def _step(record: bytes) -> int | None:
  """The step of an event; None for an event about the file itself."""
  event = event_pb2.Event.FromString(record)
  return None if event.WhichOneof('what') in ('file_version', 'session_log') else event.step


def _remove_rows(path: str, last: int) -> int:
  """Removes the rows after a step; returns how many."""
  try:
    with open(path, 'rb') as file:
      lines = file.readlines()
  except FileNotFoundError:
    return 0
  kept = [line for line in lines if _is_row(line, last)]
  if len(kept) < len(lines):
    with _replacement(path) as partial, open(partial, 'wb') as file:
      file.writelines(kept)
  return len(lines) - len(kept)


def _is_row(line: bytes, last: int) -> bool:
  """Whether a row is complete and of a step up to the last one."""
  try:
    return line.endswith(b'\n') and json.loads(line)['step'] <= last
  except (ValueError, KeyError, TypeError):
    return False


@contextlib.contextmanager
def _replacement(path: str) -> Iterator[str]:
  """The name of a file to write, which then takes the place of another."""
  partial = os.path.join(os.path.dirname(path), _PARTIAL)
  try:
    yield partial
    sync(partial)
    os.replace(partial, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(partial)


def sync(path: str) -> None:
  """Has a file on the disk before this returns."""
  descriptor = os.open(path, os.O_RDWR)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
