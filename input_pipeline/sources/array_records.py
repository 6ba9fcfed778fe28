"""Images of a TensorFlow data set, as `python -m input_pipeline.prepare` writes them."""

from collections.abc import Mapping, Sequence
import itertools
import json
import os
import pathlib
import re
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf import message
import tensorflow as tf
import tensorflow_datasets as tfds

from mat_jax.errors import UserError
from mat_jax.runtime import images

_FEATURES = 'features.json'
# TFDS imports the modules that the file of features names.
_TRUSTED = re.compile(r'tensorflow_datasets\.core\.features(\.\w+)*')


class RecordsSource:
  """The images of all splits of a TensorFlow data set in array records."""

  def __init__(self, location: str, folder: pathlib.Path):
    """Opens a data set.

    Args:
      location: the folder, as the user wrote it.
      folder: the one with `dataset_info.json`.

    Raises:
      UserError: unreadable or foreign descriptions, another format of records, no
        feature with images.
    """
    self.location = location
    _check_features(folder / _FEATURES)
    try:
      builder = tfds.builder_from_directory(folder)
      splits = {name: builder.info.splits[name] for name in builder.info.splits}
      paths = {name: list(map(os.fspath, info.filepaths)) for name, info in splits.items()}
    # TFDS meets broken descriptions with errors of many types.
    except Exception as error:
      raise UserError(f'{os.fspath(folder)!r} is not a data set that TFDS {tfds.__version__} reads '
                      f'({images.reason(error)}); prepare it again') from error
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
      raise UserError(
          f'{os.fspath(folder)!r} is stored as {builder.info.file_format.value}, which cannot be '
          'read in any order; run tfds convert_format --dataset_dir=... --out_file_format='
          'array_record')
    self._image, self._name = _find_features(builder.info.features, folder)
    metadata = builder.info.metadata or {}
    self.split_seed = metadata.get('split_seed')
    self.resolution = metadata.get('resolution')
    ends = list(itertools.accumulate(info.num_examples for info in splits.values()))
    starts = [0, *ends]
    self.splits: Mapping[str, range] | None = {
        name: range(start, end) for name, start, end in zip(splits, starts, ends, strict=False)}
    self._records = _open([path for part in paths.values() for path in part], folder, ends[-1])

  def __len__(self) -> int:
    return len(self._records)

  def name(self, index: int) -> str:
    number = f'{index:08}'
    try:
      return self._features(index)[self._name].bytes_list.value[0].decode(errors='replace')
    # There may be no such feature, and a damaged record has no name.
    except (KeyError, IndexError, RuntimeError, message.DecodeError):
      return number

  def read(self, index: int) -> bytes:
    return self._features(index)[self._image].bytes_list.value[0]

  def _features(self, index: int) -> Any:
    return tf.train.Example.FromString(self._records[index]).features.feature


def _check_features(path: pathlib.Path) -> None:
  """Raises a UserError if a description names classes other than TFDS's own."""
  try:
    names = _class_names(json.loads(path.read_text(encoding='utf-8')))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{os.fspath(path)!r} cannot be read ({error}); prepare the data set again'
                    ) from error
  for name in names:
    if not isinstance(name, str) or not _TRUSTED.fullmatch(name):
      raise UserError(f'{os.fspath(path)!r} asks for {name!r}, which is no feature of TFDS; do not '
                      'use that data set')


def _class_names(content: Any) -> list[Any]:
  """Collects the values of all keys that name a Python class."""
  if isinstance(content, list):
    return [name for part in content for name in _class_names(part)]
  if not isinstance(content, dict):
    return []
  # Protocol buffers accept either spelling.
  names = [content[key] for key in ('pythonClassName', 'python_class_name') if key in content]
  return names + [name for part in content.values() for name in _class_names(part)]


def _find_features(features: Any, folder: pathlib.Path) -> tuple[str, str]:
  """Returns the keys of the image and of its name, '' if it has none."""
  features = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
  found = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
  if not found:
    raise UserError(f'{os.fspath(folder)!r} has no feature with images, but '
                    f'{", ".join(features) or "none"}')
  names = [key for key in ('name', 'filename', 'image/filename') if key in features]
  return 'image' if 'image' in found else found[0], names[0] if names else ''


def _open(paths: Sequence[str], folder: pathlib.Path, count: int) -> ArrayRecordDataSource:
  """Opens shards that lie in the folder and hold as many records as they should."""
  for path in paths:
    if pathlib.Path(path).resolve().parent != folder.resolve():
      raise UserError(f'{os.fspath(folder)!r} names {path!r}, which lies outside of it; do not use '
                      'that data set')
  try:
    records = ArrayRecordDataSource(list(paths))
    if len(records) == count:
      return records
    problem = f'{len(records)} records instead of {count}'
  except Exception as error:  # of the C++ reader
    problem = images.reason(error)
  raise UserError(f'the shards in {os.fspath(folder)!r} are damaged or incomplete ({problem}); '
                  'prepare or copy the data set again')
