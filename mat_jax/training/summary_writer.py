"""Summary writer of a run: TensorBoard events, and rows in `stats.jsonl`.

A run that was killed goes on from its newest checkpoint and repeats the steps after it. Their
events and rows are removed first, so that the files are those of a run without interruption.

Events are appended to the event file here and not by clu's writer: that one wraps TensorFlow's,
which reports success for an event that a full disk has truncated, and appends further events
behind it, where no reader gets.

Objects in a bucket cannot be appended to. A run there has its files in a folder for temporary
files, and copies them after each report; the event file goes on under another name before it gets
so large that copying it anew takes long.
"""

from collections.abc import Callable, Mapping
import contextlib
import functools
import io
import json
import math
import os
import socket
import time

from absl import logging
import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import summary_v2 as scalar_summary
from tensorboard.plugins.text import summary_v2 as text_summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util
import tensorflow as tf

from mat_jax.runtime.storage import buckets, new_files
from mat_jax.runtime.storage.staging import Mirror
from mat_jax.training import log_files
from mat_jax.training.log_files import EVENTS, ROWS

# Bytes from which on an event file in a bucket is not appended to.
_PART = 8 << 20

Value = float | int | str | None


class SummaryWriter:
  """Scalars, images and texts in TensorBoard's event files, and rows in `stats.jsonl`.

  A write that fails is a warning, once per kind: a full disk does not end a run of days.

  Attributes:
    workdir: the run's folder, or that of its files until they are copied into a bucket.
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
    self._writes = writes
    self._failed: set[str] = set()
    self._last = -1 if resume_step is None else resume_step
    self._undo = contextlib.ExitStack()
    self._mirror: Mirror | None = None
    if buckets.is_address(workdir):
      local = self._undo.enter_context(new_files.temporary_directory('mat-jax-logs-'))
      self._mirror, workdir = _open_mirror(workdir, local, writes), local
    self.workdir = workdir
    self._rows = os.path.join(workdir, ROWS)
    self._events = self._events_path()
    self._has_begun = False
    if writes:
      log_files.remove_later(workdir, self._last)
      if self._mirror:
        log_files.patiently(self._mirror.push, workdir)

  def _events_path(self) -> str:
    """A new event file; TensorBoard reads the files in the order of their names."""
    return os.path.join(
        self.workdir, f'{EVENTS}{time.time():.6f}.{socket.gethostname()}.{os.getpid()}')

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
    self._copy()  # it ends a report

  def flush(self) -> None:
    """Syncs all writes to the disk: call it before a checkpoint is committed."""
    if self._mirror:
      self._copy()
      return
    for path in (self._rows, self._events):
      if os.path.exists(path):
        self._try('files', functools.partial(log_files.sync, path))

  def close(self) -> None:
    """The last `flush`; no file stays open between the writes."""
    self.flush()
    self._undo.close()

  def _copy(self) -> None:
    """Copies what is new into the bucket, if the run is in one."""
    if self._mirror:
      self._try('files', self._mirror.push)
      if _size(self._events) >= _PART:
        self._events = self._events_path()

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
    if not _size(self._events):
      data = self._header() + data
    _append(self._events, data)
    self._has_begun = True

  def _header(self) -> bytes:
    """File version event, and a session start that makes an open TensorBoard purge later steps."""
    version = _record(file_version='brain.Event:2')
    if self._has_begun:
      return version
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    return version + _record(step=self._last + 1, session_log=start)


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


def _size(path: str) -> int:
  """Bytes of a file, 0 for none."""
  return os.path.getsize(path) if os.path.exists(path) else 0


def _open_mirror(address: str, local: str, writes: bool) -> Mirror:
  """A copy of the events and rows of a workdir in a bucket; UserError if they cannot be read."""
  mirror = Mirror(address, local)
  if writes:
    log_files.patiently(lambda: mirror.pull([
        name for name in buckets.listed(address)
        if name == ROWS or name.startswith(EVENTS)]), address)
  return mirror
