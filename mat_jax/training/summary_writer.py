"""Summary writer of a run: TensorBoard events, and rows in `stats.jsonl`.

A run that was killed goes on from its newest checkpoint and repeats the steps after it. Their
events and rows are removed first, so that the files are those of a run without interruption.

Events are appended to the event file here and not by clu's writer: that one wraps TensorFlow's,
which reports success for an event that a full disk has truncated, and appends further events
behind it, where no reader gets.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import io
import json
import math
import os
import socket
import time
from typing import TypeVar

from absl import logging
from google.protobuf.message import DecodeError
import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import summary_v2 as scalar_summary
from tensorboard.plugins.text import summary_v2 as text_summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util
import tensorflow as tf

from mat_jax.errors import UserError
from mat_jax.runtime import disk

ROWS = 'stats.jsonl'
_EVENTS = 'events.out.tfevents.'
# TensorBoard would read a name with "tfevents" in it.
_PARTIAL = '.records.partial'
# Bytes of a TFRecord around its data: the length, its checksum and that of the data.
_FRAME = 16

T = TypeVar('T')
Value = float | int | str | None


class SummaryWriter:
  """Scalars, images and texts in TensorBoard's event files, and rows in `stats.jsonl`.

  A write that fails is a warning, once per kind: a full disk does not end a run of days.

  Attributes:
    workdir: the run's folder.
  """

  def __init__(self, workdir: str, resume_step: int | None, writes: bool = True):
    """Removes the events and rows of steps after the checkpoint.

    Subfolders of the workdir stay as they are.

    Args:
      workdir: the run's folder; made if it is missing.
      resume_step: of the checkpoint that the run goes on from; None if it starts anew.
      writes: False makes every method a no-op, for all processes but the first.

    Raises:
      UserError: the files cannot be read or rewritten.
    """
    self.workdir = workdir
    self._writes = writes
    self._failed: set[str] = set()
    self._last = -1 if resume_step is None else resume_step
    self._rows = os.path.join(workdir, ROWS)
    # TensorBoard reads the files in the order of their names.
    self._events = os.path.join(
        workdir, f'{_EVENTS}{time.time():.6f}.{socket.gethostname()}.{os.getpid()}')
    if writes:
      _remove_later(workdir, self._last)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes numbers to TensorBoard."""
    self._try('scalars', lambda: self._add(step, [
        scalar_summary.scalar_pb(name, value) for name, value in scalars.items()]))

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes pictures, uint8 [1, H, W, 3], to TensorBoard."""
    self._try('images', lambda: self._add(step, [
        _image(name, image) for name, image in images.items()]))

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Writes texts, in Markdown, to TensorBoard."""
    self._try('texts', lambda: self._add(step, [
        text_summary.text_pb(name, text) for name, text in texts.items()]))

  def write_row(self, step: int, row: Mapping[str, Value]) -> None:
    """Writes a line of JSON to `stats.jsonl`: the step and the row.

    Args:
      step: its number.
      row: what else the line says; a number that is not finite becomes null, as JSON has none.
    """
    values = {name: _plain(value) for name, value in row.items()}
    line = json.dumps({'step': step, **values}, allow_nan=False) + '\n'
    self._try('rows', lambda: _append(self._rows, line.encode()))

  def flush(self) -> None:
    """Syncs all writes to the disk: call it before a checkpoint is committed."""
    for path in (self._rows, self._events):
      if os.path.exists(path):
        self._try('files', functools.partial(_sync, path))

  def close(self) -> None:
    """The last `flush`; no file stays open between the writes."""
    self.flush()

  def _try(self, kind: str, write: Callable[[], None]) -> None:
    if not self._writes:
      return
    try:
      write()
    except OSError as error:
      if kind not in self._failed:
        self._failed.add(kind)
        logging.warning('The %s of the run cannot be written (%s). Training goes on without '
                        'them, and later ones are tried again.', kind, error)

  def _add(self, step: int, summaries: list[summary_pb2.Summary]) -> None:
    """Appends an event to the file of this session, which the first event creates."""
    summary = summary_pb2.Summary(value=[part.value[0] for part in summaries])
    data = _record(step=step, summary=summary)
    if not os.path.exists(self._events) or not os.path.getsize(self._events):
      data = self._header() + data
    _append(self._events, data)

  def _header(self) -> bytes:
    """File version event, and a session start that makes an open TensorBoard purge later steps."""
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    return (_record(file_version='brain.Event:2') +
            _record(step=self._last + 1, session_log=start))


def _plain(value: Value) -> Value:
  """A value for JSON."""
  if isinstance(value, np.generic):
    value = value.item()
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _image(name: str, image: np.ndarray) -> summary_pb2.Summary:
  """The summary of uint8 [1, H, W, 3], as `tf.summary.image` writes it."""
  _, height, width, _ = image.shape
  png = tf.io.encode_png(image[0]).numpy()
  tensor = tensor_util.make_tensor_proto(
      [str(width).encode(), str(height).encode(), png], dtype=np.object_)
  metadata = image_metadata.create_summary_metadata(display_name=None, description=None)
  return summary_pb2.Summary(
      value=[summary_pb2.Summary.Value(tag=name, tensor=tensor, metadata=metadata)])


def _record(**fields) -> bytes:
  """An event of now as a TFRecord."""
  buffer = io.BytesIO()
  event = event_pb2.Event(wall_time=time.time(), **fields)
  RecordWriter(buffer).write(event.SerializeToString())
  return buffer.getvalue()


def _append(path: str, data: bytes) -> None:
  """Appends all of the data, or nothing and raises OSError."""
  with open(path, 'ab', buffering=0) as file:
    end = file.seek(0, os.SEEK_END)
    rest = memoryview(data)
    try:
      while rest:
        rest = rest[file.write(rest):]
    except OSError:
      file.truncate(end)
      raise


def _sync(path: str) -> None:
  descriptor = os.open(path, os.O_RDWR)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _remove_later(workdir: str, last: int) -> None:
  """Removes events and rows of steps after the last one, and truncated ones."""
  rows_path = os.path.join(workdir, ROWS)
  _patiently(lambda: os.makedirs(workdir, exist_ok=True), workdir)
  events = sum(_patiently(functools.partial(_remove_events, path, last), path)
               for path in _patiently(lambda: _event_files(workdir), workdir))
  rows = _patiently(lambda: _remove_rows(rows_path, last), rows_path)
  if events or rows:
    reason = ('there is no checkpoint' if last < 0
              else f'they are newer than the checkpoint of step {last}')
    logging.info('Removed %d events of TensorBoard and %d rows of %s: %s.', events, rows, ROWS,
                 reason)


def _patiently(act: Callable[[], T], path: str) -> T:
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
                  if entry.name.startswith(_EVENTS) and entry.is_file())


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
    _sync(partial)
    os.replace(partial, path)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.remove(partial)
