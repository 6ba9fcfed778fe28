"""Traced programs on disk, so that the next process need not trace the network again.

Tracing Flax modules in Python takes longer than a small network's pass. A traced function is kept
as a `jax.export` artifact in a folder of JAX's compilation cache, and compiled from there: with the
executable in that cache too, a program starts in a second or two. As JAX runs what is in that
folder, nobody else should be able to write there.
"""

from collections.abc import Callable
import functools
import hashlib
import os
import pathlib
from typing import Any

from absl import logging
import jax
from jax import export
import jaxlib

from mat_jax.errors import UserError
from mat_jax.runtime.storage import new_files

Tree = Any
Function = Callable[..., Tree]

_FOLDER, _SUFFIX = 'traced', '.jax_export'
_LIMIT = 32  # programs that are kept
# Of this package, what a traced program depends on.
_SOURCES = ('nn', 'ops', 'inference/completion.py')


def traced(function: Function, identity: Any, arguments: tuple[Tree, ...]) -> Function:
  """A function, read from the compilation cache's folder if it is there, and kept there if not.

  Args:
    function: of trees of arrays.
    identity: what the result depends on beside the arguments: its repr tells programs apart, and is
      the same in every process.
    arguments: arrays, of which the shapes and dtypes count.

  Returns:
    The jitted function, for arguments of these shapes alone. Without a compilation cache, or
    for what `jax.export` cannot keep, it is `jax.jit(function)`.

  Raises:
    ValueError: the identity's repr has an address in memory, which the next process has not.
  """
  cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if not cache or '://' in cache:
    return jax.jit(function)
  path = os.path.join(cache, _FOLDER, _key(identity, arguments) + _SUFFIX)
  found = _read(path)
  if found is None:
    try:
      found = export.export(jax.jit(function))(*arguments)
      kept = found.serialize()
    except (ValueError, NotImplementedError, TypeError) as error:
      logging.info('The traced program is not kept: %s', error)
      return jax.jit(function)
    _write(path, kept)
  return jax.jit(found.call)


def _read(path: str) -> export.Exported | None:
  try:
    with open(path, 'rb') as file:
      found = export.deserialize(bytearray(file.read()))
    os.utime(path)
    return found
  except FileNotFoundError:
    return None
  except Exception as error:  # flatbuffers raises what it likes for a damaged file
    logging.info('The traced program %s cannot be read: %s', path, error)
    return None


def _write(path: str, content: bytearray) -> None:
  """Keeps a program, and removes the oldest ones; failures cost the next process time alone."""
  try:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with new_files.new_file(path) as file:
      file.write(content)
    ours = sorted(pathlib.Path(path).parent.glob(f'*{_SUFFIX}'), key=os.path.getmtime)
    for old in ours[:-_LIMIT]:
      old.unlink()
  except (OSError, UserError) as error:
    logging.info('The traced program is not kept: %s', error)


def _key(identity: Any, arguments: tuple[Tree, ...]) -> str:
  """SHA-256 of everything that decides what a program computes."""
  shapes = jax.tree.map(lambda x: (jax.numpy.shape(x), str(jax.numpy.result_type(x))), arguments)
  versions = (jax.__version__, jaxlib.__version__, jax.default_backend(),
              jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
  if ' at 0x' in repr(identity):
    raise ValueError(f'{identity!r} is not the same in every process')
  text = '\n'.join((repr(versions), _source_digest(), repr(identity), repr(shapes)))
  return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _source_digest() -> str:
  """SHA-256 of the source of the networks, as an edit makes other programs."""
  root = pathlib.Path(__file__).parent.parent
  digest = hashlib.sha256()
  for name in _SOURCES:
    source = root / name
    for file in sorted(source.rglob('*.py')) if source.is_dir() else [source]:
      digest.update(file.read_bytes())
  return digest.hexdigest()
