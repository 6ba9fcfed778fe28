"""Folders that are no exported program, or no whole one."""

import json
import os
import shutil
from typing import Any

from flax import linen as nn
import jax
from jax import export
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors.numpy

from mat_jax.checkpoints.reader import EmaCheckpoint
from mat_jax.errors import UserError
from mat_jax.exporting import custom_calls, loading, manifest, program
from mat_jax.nn import model_config
from mat_jax.ops.implementation import PORTABLE, Implementation


class StandIn(nn.Module):
  """Has the interface of the generator, and one parameter: exporting and reading take no time."""

  resolution: int = 64
  width: float = 1.0
  mapping_layers: int = 1
  dtype: Any = jnp.float32
  implementation: Implementation = PORTABLE

  @nn.compact
  def __call__(self, image, mask, z, truncation_psi=1.0, noise_mode='const', keep_masks=None):
    color = self.param('color', nn.initializers.ones, (3,)) * truncation_psi
    result = image * mask + (1 - mask) * jnp.tanh(z[:, None, None, :3]) * color
    return result + 0 * keep_masks['first'].mean(), result


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The folder of a program; not to be changed."""
  checkpoint = EmaCheckpoint(
      7, ml_collections.ConfigDict(), 28, {'params': {'color': np.ones(3, np.float32)}}, '')
  folder = str(tmp_path_factory.mktemp('loading') / 'program')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(model_config, 'generator_from_config', lambda *args: StandIn())
    program.export_checkpoint(checkpoint, folder)
  return folder


@pytest.fixture
def folder(whole, tmp_path):
  """A copy to damage."""
  return shutil.copytree(whole, tmp_path / 'program')


def _edit(folder, **changes):
  path = folder / 'manifest.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _replace(folder, name, data):
  """Puts a file there and makes the manifest fit."""
  (folder / name).write_bytes(data)
  files = json.loads((folder / 'manifest.json').read_text())['files']
  _edit(folder, files=files | {name: manifest.describe_file(data)})


def _refused(folder, message):
  with pytest.raises(UserError, match=message):
    loading.load_program(str(folder))


def test_a_whole_folder_runs_for_any_batch(folder):
  loaded = loading.load_program(str(folder))
  assert loaded.manifest.platforms == ['cpu', 'cuda', 'tpu'] and loaded.resolution == 64
  for batch in (1, 3):
    images = np.full((batch, 64, 64, 3), 9, np.uint8)
    masks = np.full((batch, 64, 64, 1), 255, np.uint8)
    masks[:, :20] = 0
    masks[:, 20] = 254  # no more kept than 0
    found = loaded.inpaint(images, masks, np.arange(batch, dtype=np.uint32))
    assert found.shape == images.shape and found.dtype == np.uint8
    assert (found[:, 21:] == 9).all() and (found[:, :21] != 9).any(axis=(1, 2, 3)).all()
    if batch == 3:
      assert (found[0] != found[1]).any(), 'every image has its own seed'


def test_folders_that_are_none(tmp_path):
  _refused(tmp_path / 'none', 'none is no exported program: .*manifest.json cannot be read')
  _refused(tmp_path, 'is no exported program')


@pytest.mark.parametrize('text,message', [
    ('{', 'no JSON'), ('[' * 100_000, 'no JSON'), ('[]', 'not the manifest'),
    ('{"format": "other"}', 'not the manifest'), (' ' * 2_000_000, 'longer than'),
    ('{"format": "mat-jax program", "format_version": 1}', 'library_version is missing')])
def test_a_manifest_that_is_none(folder, text, message):
  (folder / 'manifest.json').write_text(text)
  _refused(folder, message)


@pytest.mark.parametrize('changes,message', [
    ({'format_version': 2}, 'format_version 2, this version of mat-jax reads 1; export again'),
    ({'files': []}, 'files is missing or no dict'),
    ({'readable_by_jax': {}}, 'readable_by_jax lacks one of'),
    ({'entries': {'seeds': 3}}, 'its entry seeds has no arguments'),
    ({'files': {}}, 'weights.safetensors is damaged or was replaced: .*manifest says nothing'),
    ({'platforms': ['tpu']}, 'exported for tpu, here is cpu; export it for cpu too'),
    ({'calling_convention_version': 99}, '99 of the calling convention .*released from 2.*again')])
def test_a_manifest_of_something_else(folder, changes, message):
  _edit(folder, **changes)
  _refused(folder, message)


@pytest.mark.parametrize('name', ['seeds.jax_export', 'latents.jax_export', 'weights.safetensors'])
def test_files_are_checked(folder, name):
  data = bytearray((folder / name).read_bytes())
  data[len(data) // 2] ^= 1
  (folder / name).write_bytes(data)
  _refused(folder, f'{name} is damaged or was replaced: its SHA-256')
  os.remove(folder / name)
  _refused(folder, f'is no complete exported program: .*{name} cannot be read')


def test_files_that_a_manifest_fits_are_read_with_care(folder):
  seeds = (folder / 'seeds.jax_export').read_bytes()
  for data in (b'', b'no flatbuffer', seeds[:1000]):
    _replace(folder, 'seeds.jax_export', data)
    _refused(folder, r'seeds.jax_export cannot be read by jax .*or export again')
  _replace(folder, 'seeds.jax_export', (folder / 'latents.jax_export').read_bytes())
  _refused(folder, 'seeds.jax_export does not take the arguments')
  _replace(folder, 'seeds.jax_export', seeds)
  _replace(folder, 'weights.safetensors', safetensors.numpy.save({'a': np.zeros(3)}))
  _refused(folder, 'does not take the arguments that the manifest names, or the weights')
  _replace(folder, 'weights.safetensors', b'no safetensors')
  _refused(folder, 'weights.safetensors is no file of safetensors')


def test_a_program_that_calls_the_process_is_refused(folder):
  call = jax.ffi.ffi_call('xla_ffi_python_cpu_callback', jax.ShapeDtypeStruct((), np.float32))
  foreign = export.export(jax.jit(call), disabled_checks=[
      export.DisabledSafetyCheck.custom_call('xla_ffi_python_cpu_callback')])(np.float32(1))
  _replace(folder, 'seeds.jax_export', bytes(foreign.serialize()))
  _refused(folder, "seeds.jax_export calls 'xla_ffi_python_cpu_callback' of the process")


def test_calls_in_any_notation_are_found():
  found = custom_calls.foreign_calls(
      'stablehlo.custom_call @shape_assertion(%1) %2 = stablehlo.custom_call @evil(%3) '
      '"stablehlo.custom_call"(%4) stablehlo.custom_call @"other name"(%5)')
  assert found == ['?', 'evil']
  assert custom_calls.foreign_calls('stablehlo.custom_call @shape_assertion(%1)') == []


def test_a_program_past_its_days_is_warned_of(folder, caplog):
  values = json.loads((folder / 'manifest.json').read_text())['readable_by_jax']
  _edit(folder, readable_by_jax=values | {'released_until': '2020-01-01'}, jaxlib_version='0.1')
  with caplog.at_level('WARNING'):
    loading.load_program(str(folder))
  assert [message for message in caplog.messages if 'should be exported again' in message]
