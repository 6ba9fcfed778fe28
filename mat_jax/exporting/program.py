"""Exports a generator as a program that runs without this library, by `jax.export`.

A program is a folder: one file for every entry (`entries`), of StableHLO for all platforms and any
batch size, the weights, a manifest and a README with the lines of Python that run it. It is for
deployment, and JAX reads it for a while only (`manifest`); what lasts are the weights as
`convert.pretrained` saves them.
"""

from collections.abc import Mapping, Sequence
import datetime
import os
import string
from typing import Any

from absl import logging
import jax
from jax import export
import jaxlib
import safetensors.numpy

import mat_jax
from mat_jax.checkpoints.digest import variables_digest
from mat_jax.checkpoints.reader import EmaCheckpoint
from mat_jax.errors import UserError
from mat_jax.exporting import custom_calls, entries
from mat_jax.exporting import manifest as manifests
from mat_jax.inference.inpainter import read_checkpoint
from mat_jax.nn import model_config
from mat_jax.nn.generator import Generator
from mat_jax.runtime.storage import new_files

PLATFORMS = ('cpu', 'cuda', 'tpu')
_KNOWN_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
WEIGHTS = 'weights.safetensors'
_BATCH = 'b'  # the symbolic dimension

_README = string.Template('''\
# A MAT inpainting program

Fills the holes of pictures of $side x $side pixels. It needs jax, numpy and safetensors, and was
exported by jax $jax for $platforms. JAX promises to run it on versions released from $from_day to
$until_day ($counted).

```python
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file

weights = load_file('weights.safetensors')
with open('seeds.jax_export', 'rb') as file:
  program = jax.jit(export.deserialize(bytearray(file.read())).call)
images = np.zeros((1, $side, $side, 3), np.uint8)      # RGB
masks = np.full((1, $side, $side, 1), 255, np.uint8)   # 255 = kept, all else = hole
masks[:, 16:48, 16:48] = 0
seeds = np.array([7], np.uint32)                     # one for each image
filled = program(weights, images, masks, seeds, seeds, np.float32(1.0))  # uint8, like images
```

The two seeds of an image are of its latent and of its keep masks; the last argument is
truncation_psi, 1 for full variety. `latents.jax_export` takes both themselves in their place;
`manifest.json` has all shapes. With mat-jax, `mat_jax.exporting.loading.load_program` checks the
files and the arguments.
''')


def file_name(entry: str) -> str:
  """The file of an entry."""
  return f'{entry}.jax_export'


def export_program(checkpoint_path: str, output_folder: str,
                   platforms: Sequence[str] = PLATFORMS,
                   jaxlib_released: datetime.date | None = None) -> manifests.Manifest:
  """Exports the averaged generator of a checkpoint.

  Args:
    checkpoint_path: a workdir, a converted, packed or saved model, a step directory, or the name
      of a shipped model, see `inpainter.read_checkpoint`.
    output_folder: to create; it may exist if it is empty.
    platforms: of 'cpu', 'cuda', 'rocm' and 'tpu'; none of them needs to be here.
    jaxlib_released: day on which the jaxlib here was released, from which JAX's promises count;
      None takes today, and the manifest says so.

  Returns:
    The manifest of the program.

  Raises:
    UserError: there is no readable checkpoint, an unknown platform, or the folder cannot be
      written.
  """
  _check_platforms(platforms)
  checkpoint = read_checkpoint(checkpoint_path)
  return export_checkpoint(checkpoint, output_folder, platforms, jaxlib_released)


def export_checkpoint(checkpoint: EmaCheckpoint, output_folder: str,
                      platforms: Sequence[str] = PLATFORMS,
                      jaxlib_released: datetime.date | None = None) -> manifests.Manifest:
  """Exports a generator that has been read; as `export_program`."""
  _check_platforms(platforms)
  generator = entries.portable(model_config.generator_from_config(checkpoint.model, 'cpu'))
  weights = entries.weights_of(jax.device_get(checkpoint.variables))
  with new_files.new_directory(output_folder) as folder:  # before the work, which takes a while
    files = {WEIGHTS: safetensors.numpy.save(weights)}
    for entry in entries.ENTRIES:
      logging.info('Exporting %s for %s.', entry, ', '.join(platforms))
      exported = _exported(entry, generator, weights, platforms)
      files[file_name(entry)] = bytes(exported.serialize())
    manifest = _manifest(checkpoint, generator, exported, files, jaxlib_released)
    files[manifests.NAME] = manifest.to_json().encode()
    files['README.md'] = _readme(manifest).encode()
    for name, data in files.items():
      with open(os.path.join(folder, name), 'xb') as file:
        file.write(data)
  return manifest


def _check_platforms(platforms: Sequence[str]) -> None:
  unknown = [name for name in platforms if name not in _KNOWN_PLATFORMS]
  if unknown or not platforms:
    raise UserError(f'the platform {", ".join(unknown) or "to export for"} is not known; choose '
                    f'of {", ".join(_KNOWN_PLATFORMS)}')


def _exported(entry: str, generator: Generator, weights: Mapping[str, Any],
              platforms: Sequence[str]) -> export.Exported:
  """An entry as StableHLO."""
  (batch,) = export.symbolic_shape(_BATCH)
  shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype)
            for name, array in weights.items()}
  exported = export.export(jax.jit(entries.function(entry, generator)), platforms=platforms)(
      shapes, *entries.specifications(entry, generator, batch))
  foreign = custom_calls.foreign_calls(exported.mlir_module())
  if foreign:
    raise ValueError(f'the entry {entry} calls {foreign}, which is not portable')
  return exported


def _manifest(checkpoint: EmaCheckpoint, generator: Generator, exported: export.Exported,
              files: Mapping[str, bytes],
              jaxlib_released: datetime.date | None) -> manifests.Manifest:
  today = datetime.datetime.now(datetime.UTC).date()
  return manifests.Manifest(
      library_version=mat_jax.__version__, jax_version=jax.__version__,
      jaxlib_version=jaxlib.__version__,
      calling_convention_version=exported.calling_convention_version,
      exported_on=today.isoformat(),
      readable_by_jax=manifests.readable_by_jax(today, jaxlib_released, jaxlib.__version__),
      platforms=list(exported.platforms),
      model={'resolution': generator.resolution, 'width': generator.width,
             'mapping_layers': generator.mapping_layers},
      checkpoint={'step': checkpoint.step, 'images_seen': checkpoint.images_seen,
                  'sha256': variables_digest(checkpoint.variables)},
      entries={entry: _signature(entry, generator) for entry in entries.ENTRIES},
      files={name: manifests.describe_file(data) for name, data in files.items()})


def _signature(entry: str, generator: Generator) -> dict[str, Any]:
  """The arguments and the result of an entry, for readers of the manifest."""
  found = {name: {'dtype': dtype, 'shape': [] if shape is None else [_BATCH, *shape]}
           for name, (dtype, shape) in entries.arguments(entry, generator).items()}
  return {'arguments': found, 'result': dict(found['images'])}


def _readme(manifest: manifests.Manifest) -> str:
  readable = manifest.readable_by_jax
  return _README.substitute(
      side=manifest.model['resolution'], jax=manifest.jax_version,
      platforms=', '.join(manifest.platforms), from_day=readable.released_from,
      until_day=readable.released_until, counted=f'counted from {readable.counted_from}')
