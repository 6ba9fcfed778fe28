"""Reads and writes the items of step directories: trees of arrays, stored by Orbax.

Orbax is imported where it is used, as importing it takes longer than reading a packed model.
"""

from collections.abc import Mapping
import errno
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from mat_jax.checkpoints import orbax_noise
from mat_jax.runtime.storage import disk
from mat_jax.runtime.storage.disk import DamagedError

Tree = Any

# Orbax's description of the tree in an item.
_DESCRIPTION = '_METADATA'

# Bytes that an array takes on the disk beside its values, generously.
_ARRAY_OVERHEAD = 4096

# The handlers are called without a `Checkpointer`, in which a process whose read fails would
# leave the others waiting at a barrier. The folder is looked at before, since Orbax reports one
# that is missing without the system's error number.


def read_shapes(path: str) -> dict[str, Tree]:
  """Shapes and dtypes of the trees in an item.

  Args:
    path: the item's folder in a step directory.

  Returns:
    `TrainState` field -> tree; named tuples have become dicts.

  Raises:
    DamagedError: it is missing or proven to be damaged.
    UnreachableError: it cannot be read, for another reason.
  """
  import orbax.checkpoint as ocp

  _check_description(os.path.join(path, _DESCRIPTION))

  def read() -> dict[str, Tree]:
    os.stat(path)
    with orbax_noise.quiet():
      return dict(ocp.PyTreeCheckpointHandler().metadata(pathlib.Path(path)))

  return disk.read(read, path)


def _check_description(file: str) -> None:
  """Raises for a description that is missing or no such thing, as which Orbax raises anything."""

  def load() -> Any:
    with open(file, encoding='utf-8') as stream:
      return json.load(stream)

  try:
    leaves = disk.read(load, file)['tree_metadata'].values()
    described = [leaf['key_metadata'] and leaf['value_metadata']['value_type'] for leaf in leaves]
  except (KeyError, TypeError, AttributeError) as error:
    raise DamagedError(f'its {_DESCRIPTION} is no description of arrays') from error
  if not described:
    raise DamagedError(f'its {_DESCRIPTION} describes no arrays')


def read_arrays(path: str, like: dict[str, Tree]) -> dict[str, Tree]:
  """Arrays of an item.

  Args:
    path: the item's folder in a step directory.
    like: `TrainState` field -> tree of `jax.ShapeDtypeStruct` with shardings; other
      fields stay on the disk.

  Returns:
    Trees of the structure of `like`.

  Raises:
    DamagedError: it is missing or proven to be damaged.
    UnreachableError: it cannot be read, for another reason.
  """
  import orbax.checkpoint as ocp

  args = ocp.args.PyTreeRestore(
      item=like, partial_restore=True,
      restore_args=jax.tree.map(
          lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), like))

  def read() -> dict[str, Tree]:
    os.stat(path)
    with orbax_noise.quiet():
      return ocp.PyTreeCheckpointHandler().restore(pathlib.Path(path), args=args)

  host = disk.read(read, path)
  return jax.tree.map(
      lambda leaf, array: jax.make_array_from_callback(
          leaf.shape, leaf.sharding, lambda index: array[index]), like, host)


def check_space(folder: str, tree: Tree) -> None:
  """Raises OSError if the disk of a folder has no room for a tree of arrays."""
  needed = sum(leaf.nbytes + _ARRAY_OVERHEAD for leaf in jax.tree.leaves(tree))
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(errno.ENOSPC, f'it needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free',
                  folder)


def write_meta(step: str, meta: Mapping[str, Any]) -> None:
  """Makes a step directory with the JSON values that describe it."""
  os.makedirs(os.path.join(step, 'meta'))
  with open(os.path.join(step, 'meta', 'metadata'), 'x', encoding='utf-8') as file:
    json.dump(meta, file)


def write_item(path: str, trees: Mapping[str, Tree], file_bytes: int | None = None) -> None:
  """Writes an item of a step directory, from this process alone.

  Args:
    path: the item's folder, to be made.
    trees: `TrainState` field -> tree of arrays.
    file_bytes: size from which on a file of arrays is not added to; None for 2 GiB.

  Raises:
    OSError, ValueError: it cannot be written; `disk.classify` tells why.
  """
  import orbax.checkpoint as ocp

  alone = ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}, barrier_sync_key_prefix='checkpoints')
  # Compression takes thrice the time to make weights 8 % smaller.
  handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
  with (orbax_noise.quiet(),
        ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer):
    checkpointer.save(path, args=ocp.args.PyTreeSave(
        dict(trees), ocdbt_target_data_file_size=file_bytes))
