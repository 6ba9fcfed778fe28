"""Traced programs on disk, so that the next process need not trace them again.

Once compiled programs come from `compilation_cache`, tracing and lowering the training step is
half of what a start waits for (docs/performance.md). Their outcome, StableHLO, is kept in the
same folder as `jax.export` writes it, which is no pickle. Its name is a digest of everything
that it was made from, the code of this package and the versions of the others included.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import re
import sys
from typing import Any

from absl import logging
import jax
from jax import export

from mat_jax.errors import UserError
from mat_jax.new_files import new_file

Tree = Any

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_DIGEST = hashlib.sha256
# Settings of JAX that name places or tell how to report, and change with every run.
_NO_MATTER = re.compile('cache|dir|path|log|dump|debug|traceback|profiler|compiler_detailed')


@dataclasses.dataclass(frozen=True)
class KeptProgram:
  """A function of trees, traced once for all processes that agree on its description.

  Attributes:
    function: a pure function of its arguments and of what `description` describes.
    in_shardings: one for all arrays of each argument.
    out_sharding: of all results.
    result: arguments -> a tree of the structure of the results.
    description: what the function closes over; what `repr` says of it counts.
    options: of the compiler.
  """

  function: Callable[..., Tree]
  in_shardings: tuple[jax.sharding.Sharding, ...]
  out_sharding: jax.sharding.Sharding
  result: Callable[..., Tree]
  description: Any
  options: dict[str, Any] = dataclasses.field(default_factory=dict)

  def lower(self, arguments: Sequence[Tree]) -> (
      tuple[jax.stages.Lowered, Callable[..., Tree]] | None):
    """The program, ready to be compiled. The first argument is donated.

    Args:
      arguments: arrays or their shapes.

    Returns:
      A program of all arrays of the arguments, and what makes a function like `function` of
      the compiled one. None if no folder is in use or several processes run.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not folder or '://' in folder or jax.process_count() > 1:
      return None
    leaves = jax.tree.leaves(tuple(arguments))
    path = os.path.join(folder, f'traced-{self._digest(arguments)}')
    exported = _read(path)
    if exported is None:
      exported = self._export(arguments)
      _write(path, exported)
    jitted = jax.jit(
        exported.call, in_shardings=self._flat_shardings(arguments),
        out_shardings=self.out_sharding, compiler_options=self.options,
        donate_argnums=tuple(range(len(jax.tree.leaves(arguments[0])))))
    structure = jax.tree.structure(self.result(*arguments))

    def wrap(compiled: Callable[..., Any]) -> Callable[..., Tree]:
      return lambda *arguments: jax.tree.unflatten(
          structure, compiled(*jax.tree.leaves(arguments)))

    return jitted.lower(*leaves), wrap

  def _flat_shardings(self, arguments: Sequence[Tree]) -> tuple[jax.sharding.Sharding, ...]:
    return tuple(sharding for argument, sharding in zip(arguments, self.in_shardings, strict=True)
                 for _ in jax.tree.leaves(argument))

  def _export(self, arguments: Sequence[Tree]) -> export.Exported:
    structure = jax.tree.structure(tuple(arguments))

    def flat(*leaves: jax.Array) -> list[jax.Array]:
      return jax.tree.leaves(self.function(*jax.tree.unflatten(structure, leaves)))

    jitted = jax.jit(flat, in_shardings=self._flat_shardings(arguments),
                     out_shardings=self.out_sharding)
    return export.export(jitted)(*jax.tree.leaves(tuple(arguments)))

  def _digest(self, arguments: Sequence[Tree]) -> str:
    shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(tuple(arguments))]
    device = jax.tree.leaves(self.in_shardings)[0].device_set
    parts = (self.description, jax.tree.structure(tuple(arguments)), shapes, self.in_shardings,
             self.out_sharding, sorted({x.device_kind for x in device}), _versions(), _config())
    # Functions have addresses, which differ between processes.
    text = re.sub(r' at 0x[0-9a-f]+', '', repr(parts))
    return _DIGEST(text.encode() + _source()).hexdigest()


def _versions() -> list[str]:
  return [sys.version, *(importlib.metadata.version(name) for name in _PACKAGES)]


def _config() -> list[tuple[str, str]]:
  """JAX's settings, those of a context included."""
  return [(name, repr(getattr(jax.config, name, None)))
          for name in sorted(jax.config.values) if not _NO_MATTER.search(name)]


@functools.cache
def _source() -> bytes:
  """A digest of the code of this package."""
  found = _DIGEST()
  for path in sorted(pathlib.Path(__file__).parent.glob('**/*.py')):
    found.update(path.name.encode() + b'\0' + _DIGEST(path.read_bytes()).digest())
  return found.digest()


def _read(path: str) -> export.Exported | None:
  """What is kept there, if it is there and whole."""
  try:
    with open(path, 'rb') as file:
      digest, data = file.read(_DIGEST().digest_size), file.read()
  except OSError:
    return None
  if _DIGEST(data).digest() != digest:
    logging.warning('%s is damaged and written anew.', path)
    return None
  return export.deserialize(bytearray(data))


def _write(path: str, exported: export.Exported) -> None:
  data = bytes(exported.serialize())
  try:
    with new_file(path) as file:
      file.write(_DIGEST(data).digest() + data)
  except UserError as error:
    logging.warning('A traced program is not kept: %s', error)
