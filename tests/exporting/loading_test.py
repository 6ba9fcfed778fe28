"""Folders that are no exported program, or no whole one."""

import json
import os
import shutil

import jax
from jax import export
import numpy as np
import pytest
import safetensors.numpy

from mat_jax.errors import UserError
from mat_jax.exporting import custom_calls, loading, manifest


@pytest.fixture
def folder(exported, tmp_path):
  """A copy to damage."""
  return shutil.copytree(exported, tmp_path / 'program')


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


def test_a_whole_folder_loads(folder):
  assert loading.load_program(str(folder)).manifest.platforms == ['cpu', 'cuda', 'tpu']


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
  whole = (folder / 'seeds.jax_export').read_bytes()
  for data in (b'', b'no flatbuffer', whole[:1000]):
    _replace(folder, 'seeds.jax_export', data)
    _refused(folder, r'seeds.jax_export cannot be read by jax .*or export again')
  _replace(folder, 'seeds.jax_export', (folder / 'latents.jax_export').read_bytes())
  _refused(folder, 'seeds.jax_export does not take the arguments')
  _replace(folder, 'seeds.jax_export', whole)
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
