"""Images in parquet shards with a column of genres, as huggan/wikiart has them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
import json
import pathlib
import threading
from typing import NamedTuple

import numpy as np
import pyarrow
from pyarrow import parquet

from input_pipeline.sources import genres
from input_pipeline.sources.source import Unsplit
from mat_jax.errors import UserError
from mat_jax.runtime import images

_IMAGE = 'image'
_GENRE = 'genre'
# Row groups that stay in memory, in bytes: a group is read as a whole.
_CACHE_BYTES = 2**29


class _Row(NamedTuple):
  """Where an image is: shard, row group and row within it."""
  shard: int
  group: int
  row: int


class ParquetSource(Unsplit):
  """The images of parquet shards, those of one genre or all."""

  def __init__(self, location: str, root: pathlib.Path, names: Sequence[str], genre: str):
    """Reads the genres of all rows; images are read on demand, a row group at a time.

    Args:
      location: the folder or file, as the user wrote it.
      root: the folder.
      names: POSIX paths of the shards relative to it, sorted.
      genre: name or number of a genre, '' for all.

    Raises:
      UserError: a shard that is none or lacks a column, an unknown genre, or one
        without images.
    """
    self.location = location
    self._names = names
    self._shards = [_open(root / name, f'{location}/{name}') for name in names]
    self._rows: list[_Row] = []
    found: set[int] = set()
    known: Mapping[int, str] = genres.HUGGAN
    for shard, file in enumerate(self._shards):
      known = _class_names(file) or known
      number = genres.find(genre, known, location)
      values = _genres(file, f'{location}/{names[shard]}', number is not None)
      found.update(np.unique(values).tolist())
      rows = np.arange(file.metadata.num_rows)
      self._rows += _locate(file, shard, rows if number is None else rows[values == number])
    if not self._rows:
      raise UserError(genres.none_message(genre, found, known, location))
    self._lock = threading.Lock()
    self._groups: OrderedDict[tuple[int, int], pyarrow.ChunkedArray] = OrderedDict()

  def __len__(self) -> int:
    return len(self._rows)

  def name(self, index: int) -> str:
    shard, group, row = self._rows[index]
    return f'{self._names[shard]}/{group:04}-{row:06}'

  def read(self, index: int) -> bytes:
    shard, group, row = self._rows[index]
    data = self._group(shard, group)[row].as_py()
    if data is None:
      raise ValueError('the row has no bytes')
    if len(data) > images.MAX_FILE_BYTES:
      raise ValueError(f'larger than {images.MAX_FILE_BYTES >> 20} MiB')
    return data

  def _group(self, shard: int, group: int) -> pyarrow.ChunkedArray:
    """Returns the encoded images of a row group, from memory where it was read lately."""
    key = shard, group
    with self._lock:
      if key not in self._groups:
        column = self._shards[shard].read_row_group(group, columns=[_IMAGE])[_IMAGE]
        if pyarrow.types.is_struct(column.type):
          column = pyarrow.chunked_array([chunk.field('bytes') for chunk in column.chunks])
        self._groups[key] = column
        while len(self._groups) > 1 and sum(
            part.nbytes for part in self._groups.values()) > _CACHE_BYTES:
          self._groups.popitem(last=False)
      self._groups.move_to_end(key)
      return self._groups[key]


def _open(path: pathlib.Path, where: str) -> parquet.ParquetFile:
  """Opens a shard and checks that it has encoded images."""
  try:
    file = parquet.ParquetFile(path, memory_map=True)
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(
        f'{where!r} is not a readable parquet file ({images.reason(error)}); download it again'
    ) from error
  schema = file.schema_arrow
  kind = schema.field(_IMAGE).type if _IMAGE in schema.names else None
  if kind is not None and pyarrow.types.is_struct(kind):
    kind = kind.field('bytes').type if kind.get_field_index('bytes') >= 0 else None
  if kind is None or not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
    raise UserError(f'{where!r} has no column {_IMAGE!r} of encoded images, but '
                    f'{", ".join(schema.names)}; give shards as huggan/wikiart has them')
  return file


def _genres(file: parquet.ParquetFile, where: str, needed: bool) -> np.ndarray:
  """Returns the genre of every row, -1 where it has none."""
  schema = file.schema_arrow
  if _GENRE in schema.names and pyarrow.types.is_integer(schema.field(_GENRE).type):
    column = file.read(columns=[_GENRE])[_GENRE]
    return column.fill_null(-1).to_numpy().astype(np.int64)
  if needed:
    raise UserError(f'{where!r} has no column {_GENRE!r} of numbers to choose by; set '
                    "--config.data.genre='' to take all of its images")
  return np.full(file.metadata.num_rows, -1)


def _class_names(file: parquet.ParquetFile) -> dict[int, str]:
  """Reads the names of the genres that Hugging Face's library leaves in the schema."""
  try:
    content = json.loads((file.schema_arrow.metadata or {})[b'huggingface'])
    names = content['info']['features'][_GENRE]['names']
    return {i: str(name) for i, name in enumerate(names)}
  except (KeyError, TypeError, ValueError):  # made by something else
    return {}


def _locate(file: parquet.ParquetFile, shard: int, rows: np.ndarray) -> list[_Row]:
  """Finds the row groups that rows of a shard are in."""
  metadata = file.metadata
  sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
  starts = np.cumsum([0, *sizes])
  groups = np.searchsorted(starts, rows, side='right') - 1
  return [_Row(shard, group, row) for group, row in zip(
      groups.tolist(), (rows - starts[groups]).tolist(), strict=True)]
