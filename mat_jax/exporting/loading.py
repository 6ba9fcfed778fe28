"""Loads an exported program, checks its files, and runs it.

Nothing that a file names is imported or executed: programs are flatbuffers of StableHLO, whose
calls out of it are checked (`custom_calls`), weights are safetensors. The checksums show damage;
they do not show who wrote a folder, whose manifest can be written anew as well.
"""

from collections.abc import Callable, Mapping
import dataclasses
import datetime
import os
from typing import Any

from absl import logging
import jax
from jax import export
import jaxlib
import numpy as np
import safetensors
import safetensors.numpy

from mat_jax.errors import UserError
from mat_jax.exporting import custom_calls, entries
from mat_jax.exporting import manifest as manifests
from mat_jax.exporting.program import WEIGHTS, file_name

# Bytes; the programs of 512 px have 3 MB, the weights of the full width 250 MB.
_MAX_PROGRAM = 1 << 28
_MAX_WEIGHTS = 1 << 33


class Program:
  """A generator that was exported; made by `load_program`.

  Attributes:
    manifest: the description in its folder.
  """

  def __init__(self, manifest: manifests.Manifest, weights: Mapping[str, np.ndarray],
               exported: Mapping[str, export.Exported]):
    self.manifest = manifest
    self._weights = jax.device_put(dict(weights))
    self._exported = dict(exported)
    # Compiled for every batch size that comes, once.
    self._compiled: dict[str, Callable[..., jax.Array]] = {
        entry: jax.jit(found.call) for entry, found in exported.items()}

  @property
  def resolution(self) -> int:
    """The side of the images, in pixels."""
    return self._exported[entries.SEEDS].in_avals[len(self._weights)].shape[1]

  def inpaint(self, images: np.ndarray, masks: np.ndarray, seeds: np.ndarray,
              truncation_psi: float = 1.0, keep_seeds: np.ndarray | None = None) -> np.ndarray:
    """Fills holes; what is random depends on an image's own seeds alone.

    Args:
      images: uint8 [N, R, R, 3], R the `resolution`.
      masks: uint8 [N, R, R, 1], 255 = kept, all else = hole.
      seeds: uint32 [N], of the latents.
      truncation_psi: 1 for full variety, 0 for the average style.
      keep_seeds: uint32 [N], of the keep masks; None takes `seeds`.

    Returns:
      uint8 [N, R, R, 3]; kept pixels equal the input's.

    Raises:
      UserError: an array has another dtype or shape.
    """
    return self._run(entries.SEEDS, {
        'images': images, 'masks': masks, 'seeds': seeds,
        'keep_seeds': seeds if keep_seeds is None else keep_seeds}, truncation_psi)

  def inpaint_latents(self, images: np.ndarray, masks: np.ndarray, z: np.ndarray,
                      keep_masks: Mapping[str, np.ndarray],
                      truncation_psi: float = 1.0) -> np.ndarray:
    """Fills holes with given latents and keep masks.

    Args:
      images: uint8 [N, R, R, 3], R the `resolution`.
      masks: uint8 [N, R, R, 1], 255 = kept, all else = hole.
      z: float32 [N, 512].
      keep_masks: 'first' and 'second', float32, of the shapes of `sizes.keep_mask_shapes`.
      truncation_psi: 1 for full variety, 0 for the average style.

    Returns:
      uint8 [N, R, R, 3]; kept pixels equal the input's.

    Raises:
      UserError: an array has another dtype or shape.
    """
    return self._run(entries.LATENTS, {
        'images': images, 'masks': masks, 'z': z, 'keep_first': keep_masks['first'],
        'keep_second': keep_masks['second']}, truncation_psi)

  def _run(self, entry: str, arrays: Mapping[str, np.ndarray],
           truncation_psi: float) -> np.ndarray:
    avals = self._exported[entry].in_avals[len(self._weights):]
    batch = len(np.atleast_1d(arrays['images']))
    for (name, array), aval in zip(arrays.items(), avals, strict=False):
      wanted = (batch, *aval.shape[1:])
      if np.shape(array) != wanted or array.dtype != aval.dtype:
        raise UserError(f'{name} is {array.dtype} {np.shape(array)}; give {aval.dtype} {wanted}')
    result = self._compiled[entry](self._weights, *arrays.values(), np.float32(truncation_psi))
    return np.asarray(jax.device_get(result))


def load_program(folder: str) -> Program:
  """Loads a program that `program.export_program` wrote.

  Args:
    folder: where it is.

  Returns:
    The program, its weights on the default device.

  Raises:
    UserError: the folder holds no program, a file is missing, damaged or foreign, or the program
      is for other platforms or for another version of JAX.
  """
  manifest = manifests.read(folder)
  _check_platform(manifest, folder)
  _check_calling_convention(manifest, folder)
  _warn_of_age(manifest, folder)
  weights = _read_weights(folder, manifest)
  exported = {entry: _read_entry(folder, file_name(entry), manifest) for entry in entries.ENTRIES}
  for entry, found in exported.items():
    _check_fit(entry, found, weights, manifest, folder)
  return Program(manifest, weights, exported)


def _check_platform(manifest: manifests.Manifest, folder: str) -> None:
  here = export.default_export_platform()
  if here not in manifest.platforms:
    raise UserError(f'{folder} was exported for {", ".join(map(str, manifest.platforms))}, here is '
                    f'{here}; export it for {here} too, or set JAX_PLATFORMS')


def _check_calling_convention(manifest: manifests.Manifest, folder: str) -> None:
  version = manifest.calling_convention_version
  least, most = (export.minimum_supported_calling_convention_version,
                 export.maximum_supported_calling_convention_version)
  if not least <= version <= most:
    raise UserError(f'{folder} has version {version} of the calling convention of jax.export, jax '
                    f'{jax.__version__} runs {least} to {most}; {_remedy(manifest)}')


def _remedy(manifest: manifests.Manifest) -> str:
  """What to do about a program that this version of JAX does not run."""
  readable = manifest.readable_by_jax
  return (f'use a jax released from {readable.released_from} to {readable.released_until}, as '
          f'{manifest.jax_version}, or export again')


def _warn_of_age(manifest: manifests.Manifest, folder: str) -> None:
  today = datetime.datetime.now(datetime.UTC).date().isoformat()
  if jaxlib.__version__ != manifest.jaxlib_version and (
      today > manifest.readable_by_jax.released_until):
    logging.warning(
        '%s was exported by jaxlib %s; releases after %s, perhaps the %s here, are not promised to '
        'read it, so it should be exported again.', folder, manifest.jaxlib_version,
        manifest.readable_by_jax.released_until, jaxlib.__version__)


def _read_file(folder: str, name: str, manifest: manifests.Manifest, limit: int) -> bytes:
  """The contents of a file of a program, checked against the manifest."""
  path = os.path.join(folder, name)
  data = manifests.read_limited(path, f'{folder} is no complete exported program', limit)
  found, wanted = manifests.describe_file(data), manifest.files.get(name)
  if found != wanted:
    told = wanted.get('sha256') if isinstance(wanted, dict) else None
    raise UserError(f'{path} is damaged or was replaced: its SHA-256 is {found["sha256"][:12]}..., '
                    f'the manifest says {told or "nothing"!s:.12}...; copy the folder again or '
                    'export again')
  return data


def _read_weights(folder: str, manifest: manifests.Manifest) -> dict[str, np.ndarray]:
  data = _read_file(folder, WEIGHTS, manifest, _MAX_WEIGHTS)
  try:
    return safetensors.numpy.load(data)
  except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype NumPy lacks
    raise UserError(f'{os.path.join(folder, WEIGHTS)} is no file of safetensors ({error!s:.100}); '
                    'export again') from error


def _read_entry(folder: str, name: str, manifest: manifests.Manifest) -> export.Exported:
  path = os.path.join(folder, name)
  data = _read_file(folder, name, manifest, _MAX_PROGRAM)
  try:
    exported = export.deserialize(bytearray(data))
    module = exported.mlir_module()
  # The readers of flatbuffers and of MLIR meet foreign bytes with errors of many types.
  except Exception as error:
    raise UserError(f'{path} cannot be read by jax {jax.__version__} ({type(error).__name__}); '
                    f'{_remedy(manifest)}') from error
  foreign = custom_calls.foreign_calls(module)
  if foreign:
    raise UserError(f'{path} calls {foreign[0]!r:.60} of the process that runs it, which no program '
                    'of mat-jax does; do not use it')
  return exported


def _check_fit(entry: str, exported: export.Exported, weights: Mapping[str, np.ndarray],
               manifest: manifests.Manifest, folder: str) -> None:
  """Raises UserError unless an entry takes what the manifest says and the weights there are."""
  try:
    taken = (dict(weights), *_described_arguments(entry, manifest))
    structure: Any = exported.in_tree  # which JAX's stubs do not know
    fits = structure == jax.tree.structure((taken, {})) and all(
        map(_matches, exported.in_avals, jax.tree.leaves(taken)))
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{os.path.join(folder, manifests.NAME)} is damaged: its entry {entry} has no '
                    'arguments; copy it again or export again') from error
  if not fits:
    raise UserError(f'{os.path.join(folder, file_name(entry))} does not take the arguments that '
                    'the manifest names, or the weights beside it; export again')


@dataclasses.dataclass(frozen=True)
class _Described:
  """An argument as the manifest describes it; its batch is the text 'b'."""

  dtype: str
  shape: tuple[Any, ...]


def _described_arguments(entry: str, manifest: manifests.Manifest) -> list[_Described]:
  described = manifest.entries[entry]['arguments']
  return [_Described(described[name]['dtype'], tuple(described[name]['shape']))
          for name in entries.ARGUMENTS[entry]]


def _matches(aval: Any, described: Any) -> bool:
  return (str(aval.dtype) == str(described.dtype) and len(aval.shape) == len(described.shape)
          and all(str(a) == str(b) for a, b in zip(aval.shape, described.shape, strict=True)))
