"""Objects in buckets, as TensorStore reads and writes them: addresses such as gs://bucket/name.

A bucket has no folders and no renaming. An object appears complete under its name or not at all,
and replaces an older one at once; a condition on the older one keeps two writers apart. TensorStore
finds the credentials (https://google.github.io/tensorstore/kvstore/gcs), and waits and asks again
when the server is busy or down; TENSORSTORE_GCS_HTTP_URL is the address of another server.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import errno
import io
import os
import pathlib
import re
from typing import Any, NamedTuple, TextIO

_SCHEME = 'gs://'
_ADDRESS = re.compile(r'gs://(?P<bucket>[^/]+)(/(?P<name>.*))?', re.DOTALL)
# About two minutes in all; 32 attempts, as TensorStore makes by default, are a quarter of an hour.
_RETRIES = {'max_retries': 8, 'initial_delay': '500ms', 'max_delay': '32s'}
# What TensorStore's texts begin with -> what the system says of files.
_CODES = {'NOT_FOUND': errno.ENOENT, 'PERMISSION_DENIED': errno.EACCES,
          'UNAUTHENTICATED': errno.EACCES, 'INVALID_ARGUMENT': errno.EINVAL}
_STATUS = re.compile(r'([A-Z_]+): ')
_REASON_LENGTH = 200
# Objects that are read or written at a time: their contents are in memory.
_AT_A_TIME = 8


class Found(NamedTuple):
  """An object, or its absence.

  Attributes:
    data: the contents; None if there is no object.
    generation: changes with each write, and stands for the absence too.
  """

  data: bytes | None
  generation: bytes


def is_address(path: str | os.PathLike[str]) -> bool:
  """Whether a path is an address in a bucket, of the one kind that is supported."""
  return os.fspath(path).startswith(_SCHEME)


def absolute(path: str) -> str:
  """The absolute path of a file or folder; an address without slashes at its end."""
  return path.rstrip('/') if is_address(path) else os.path.abspath(path)


def read(path: str) -> Found:
  """Reads an object.

  Raises:
    OSError: it cannot be read.
  """
  with _errors(path):
    found = _store(path).read('').result()
  return Found(found.value if found.state == 'value' else None, found.stamp.generation)


def write(path: str, data: bytes, only_over: bytes | None = None) -> bytes | None:
  """Writes an object.

  Args:
    path: its address.
    data: the contents.
    only_over: writes only if this is still its generation.

  Returns:
    Its new generation; None if its generation was another one.

  Raises:
    OSError: it cannot be written.
  """
  with _errors(path):
    # Generations that nobody knows are empty.
    return _store(path).write('', data, if_equal=only_over).result().generation or None


def read_file(path: str) -> bytes:
  """The contents of a file, or of an object; OSError if it is missing or cannot be read."""
  if not is_address(path):
    with open(path, 'rb') as file:
      return file.read()
  data = read(path).data
  if data is None:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
  return data


def open_text(path: str, errors: str = 'strict', newline: str | None = None) -> TextIO:
  """Opens a text in UTF-8 for reading; see `open` for the arguments, `read_file` for errors."""
  if not is_address(path):
    return open(path, encoding='utf-8', errors=errors, newline=newline)
  return io.TextIOWrapper(
      io.BytesIO(read_file(path)), encoding='utf-8', errors=errors, newline=newline)


def remove(path: str, only_over: bytes | None = None) -> None:
  """Removes an object, if it is there; see `write` for `only_over` and the errors."""
  with _errors(path):
    _store(path).write('', None, if_equal=only_over).result()


def walk(folder: str) -> list[str]:
  """The names of all objects below a folder, relative to it and sorted.

  Objects that stand for empty folders are left out, and names that would lead out of a folder on
  the disk.

  Raises:
    OSError: they cannot be listed.
  """
  with _errors(folder):
    store = _store(_inside(folder))
    found = store.list().result()
    if not found:
      # TensorStore takes a refusal to list for an empty list. Reading an object that does not
      # exist is refused too then, instead of saying that there is none:
      # https://github.com/keras-team/keras-hub/pull/1667
      store.read('').result()
  names = sorted(name.decode(errors='surrogateescape') for name in found)
  return [name for name in names if not {'', '.', '..'} & set(name.split('/'))]


def listed(folder: str) -> list[str]:
  """The names in a folder, sorted; OSError as in `walk`."""
  return sorted({name.partition('/')[0] for name in walk(folder)})


def files_of(folder: str) -> list[str]:
  """The names of all files in a folder on the disk, relative to it and sorted."""
  return sorted(pathlib.Path(parent, name).relative_to(folder).as_posix()
                for parent, _, names in os.walk(folder) for name in names)


def upload(local: str, folder: str, names: Collection[str], last: str = '') -> None:
  """Copies files into a folder of a bucket.

  Args:
    local: folder on the disk.
    folder: address.
    names: of the files, relative to both.
    last: object that is written when all others are complete, if it is among the names.

  Raises:
    OSError: a file cannot be read, or an object not be written.
  """
  store = _store(_inside(folder))
  for part in _parts(names, last):
    with _errors(folder):
      futures = []
      for name in part:
        with open(os.path.join(local, name), 'rb') as file:
          futures.append(store.write(name, file.read()))
      for future in futures:
        future.result()


def read_changed(folder: str, names: Sequence[str], known: Mapping[str, bytes],
                 at_a_time: int = _AT_A_TIME) -> Iterator[tuple[str, bytes, bytes]]:
  """Reads objects of a folder that are not known, or have changed.

  Args:
    folder: address.
    names: of the objects, relative to it.
    known: the generations of those whose contents are known.
    at_a_time: so many are asked for at once.

  Yields:
    Name, contents and generation.

  Raises:
    OSError: one is missing or cannot be read.
  """
  store = _store(_inside(folder))
  for start in range(0, len(names), at_a_time):
    with _errors(folder):
      futures = {name: store.read(name, if_not_equal=known.get(name))
                 for name in names[start:start + at_a_time]}
      found = {name: future.result() for name, future in futures.items()}
    for name, result in found.items():
      if result.state == 'missing':
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), _inside(folder) + name)
      if result.state == 'value':
        yield name, result.value, result.stamp.generation


def download(folder: str, local: str, names: Collection[str] | None = None) -> list[str]:
  """Copies objects of a folder to a disk.

  Args:
    folder: address.
    local: folder on the disk, made if need be.
    names: of the objects, relative to both; None for all.

  Returns:
    The names.

  Raises:
    OSError: one is missing or cannot be read, or a file not be written.
  """
  found = walk(folder) if names is None else list(names)
  for name, data, _ in read_changed(folder, found, {}):
    path = os.path.join(local, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
      file.write(data)
  return found


def remove_folder(folder: str, first: str = '', keep: Collection[str] = ()) -> None:
  """Removes all objects below a folder.

  Args:
    folder: address.
    first: object that is gone before the others are removed.
    keep: names of objects that stay, relative to the folder.

  Raises:
    OSError: an object cannot be removed.
  """
  names = sorted(set(walk(folder)) - set(keep), key=lambda name: name != first)
  store, head = _store(_inside(folder)), int(first in names)
  for part in (names[:head], names[head:]):
    with _errors(folder):
      for future in [store.write(name, None) for name in part]:
        future.result()


def move(folder: str, to: str, last: str) -> None:
  """Moves all objects below a folder to another one, through this machine.

  Args:
    folder: address.
    to: address, of which nothing older stays.
    last: object that is written last and removed first.

  Raises:
    OSError: an object cannot be read, written or removed.
  """
  remove_folder(to, last)
  source, target = _store(_inside(folder)), _store(_inside(to))
  for part in _parts(walk(folder), last):
    with _errors(folder):
      futures = [target.write(name, source.read(name).result().value) for name in part]
      for future in futures:
        future.result()
  remove_folder(folder, last)


def _parts(names: Collection[str], last: str = '') -> Iterator[tuple[str, ...]]:
  """The names, so many at a time, one of them on its own in the end."""
  others = [name for name in names if name != last]
  for start in range(0, len(others), _AT_A_TIME):
    yield tuple(others[start:start + _AT_A_TIME])
  if last in names:
    yield (last,)


def _inside(folder: str) -> str:
  """What the addresses of all objects in a folder begin with."""
  return folder.rstrip('/') + '/'


def _store(path: str) -> Any:
  """TensorStore's key-value store whose keys follow a path."""
  import tensorstore as ts  # what has nothing in buckets does without its threads

  match = _ADDRESS.fullmatch(path)
  with _errors(path):
    if match is None:
      raise ValueError('INVALID_ARGUMENT: it names no bucket')
    spec: Mapping[str, Any] = {'driver': 'gcs', 'bucket': match['bucket'],
                               'path': match['name'] or '',
                               'context': {'gcs_request_retries': _RETRIES}}
    return ts.KvStore.open(spec).result()


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
  """Raises TensorStore's errors as the system's."""
  try:
    yield
  except ValueError as error:
    text = str(error).partition(' [')[0].partition('\n')[0] or type(error).__name__
    status = _STATUS.match(text)
    code = _CODES.get(status[1], errno.EIO) if status else errno.EIO
    raise OSError(code, text[:_REASON_LENGTH], path) from error
