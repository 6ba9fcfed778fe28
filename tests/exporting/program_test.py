"""Exporting a generator as a program, and running it where this library is not."""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from mat_jax.checkpoints.reader import EmaCheckpoint
from mat_jax.errors import UserError
from mat_jax.exporting import entries, loading, manifest, program
from mat_jax.inference import completion
from mat_jax.nn import model_config
from mat_jax.runtime import image_grid
from tests.support import small_generator

SIDE = 64


@pytest.fixture(scope='module')
def checkpoint():
  return small_generator.checkpoint()


def _arrays(batch):
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (batch, SIDE, SIDE, 3), np.uint8)
  masks = np.full((batch, SIDE, SIDE, 1), 255, np.uint8)
  masks[:, 10:40, 5:50] = 0
  masks[:, 50, 50] = 254  # not kept either
  return images, masks, np.arange(7, 7 + batch, dtype=np.uint32)


# What README.md of the folder shows, for the arrays in a file.
_ALONE = '''
import sys
sys.modules['mat_jax'] = None  # importing it fails
arrays = dict(np.load('arrays.npz'))
for batch in (3, 1):
  found = program(weights, *(arrays[name][:batch] for name in (
      'images', 'masks', 'seeds', 'seeds')), np.float32(0.7))
  np.save(f'found_{batch}.npy', found)
'''


def test_a_process_without_this_library_gets_the_same_bits(checkpoint, exported, tmp_path):
  with open(os.path.join(exported, 'README.md'), encoding='utf-8') as file:
    lines = re.search(r'```python\n(.*)```', file.read(), re.DOTALL)[1]
  images, masks, seeds = _arrays(3)
  folder = shutil.copytree(exported, tmp_path / 'elsewhere')
  np.savez(folder / 'arrays.npz', images=images, masks=masks, seeds=seeds)
  # Without the last line, which would compile for another batch size.
  shown, last = lines.rstrip().rsplit('\n', 1)
  assert last.startswith('filled = program(weights, images, masks, seeds, seeds, np.float32(1.0))')
  done = subprocess.run([sys.executable, '-c', shown + _ALONE], cwd=folder, check=False,
                        env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  found, single = (np.load(folder / f'found_{n}.npy') for n in (3, 1))
  generator = entries.portable(model_config.generator_from_config(checkpoint.model))
  here = jax.jit(entries.function(entries.SEEDS, generator))
  wanted = here(entries.weights_of(checkpoint.variables), images[:1], masks[:1], seeds[:1],
                seeds[:1], np.float32(0.7))
  np.testing.assert_array_equal(single, wanted)
  # Another batch size is another program: what lies between two of 256 values may round otherwise.
  difference = np.abs(single.astype(int) - found[:1])
  assert difference.max() <= 1 and np.mean(difference > 0) < 1e-3, 'the batch size changes it'
  kept = np.broadcast_to(masks == 255, images.shape)
  np.testing.assert_array_equal(found[kept], images[kept])
  assert len(np.unique(found[~kept])) > 50


def test_latents_are_those_of_the_seeds(checkpoint, exported):
  loaded = loading.load_program(exported)
  assert loaded.resolution == SIDE
  images, masks, seeds = _arrays(1)
  generator = model_config.generator_from_config(checkpoint.model)
  z, keep_masks = completion.sample(generator, seeds, SIDE, SIDE, seeds + 1)
  by_latents = loaded.inpaint_latents(images, masks, z, keep_masks)
  by_seeds = loaded.inpaint(images, masks, seeds, keep_seeds=seeds + 1)
  assert by_seeds.dtype == np.uint8
  np.testing.assert_allclose(by_latents.astype(int), by_seeds, atol=1)
  assert np.any(by_seeds != loaded.inpaint(images, masks, seeds))


def test_it_computes_what_the_library_computes(checkpoint, exported):
  images, masks, seeds = _arrays(1)
  found = loading.load_program(exported).inpaint(images, masks, seeds)
  kept = masks == 255
  wanted, _ = completion.complete(
      model_config.generator_from_config(checkpoint.model), checkpoint.variables,
      images / np.float32(127.5) - 1, kept.astype(np.float32), seeds)
  wanted = np.where(kept, images, image_grid.to_uint8(np.asarray(wanted)))
  # The library takes the implementation of the platform, the program that of all platforms.
  np.testing.assert_allclose(found.astype(int), wanted, atol=1)


def test_wrong_arrays_are_named(exported):
  loaded = loading.load_program(exported)
  images, masks, seeds = _arrays(2)
  for arguments, message in (
      ((images / 255, masks, seeds), r'images is float64 \(2, 64, 64, 3\); give uint8'),
      ((images[:, :32], masks, seeds), r'images is uint8 \(2, 32, 64, 3\); .*\(2, 64, 64, 3\)'),
      ((images, masks[:1], seeds), r'masks is uint8 \(1, 64, 64, 1\); give uint8 \(2,'),
      ((images, masks, seeds.astype(int)), r'seeds is int64 .*give uint32 \(2,\)')):
    with pytest.raises(UserError, match=message):
      loaded.inpaint(*arguments)


def test_the_manifest_describes_the_program(checkpoint, exported):
  with open(os.path.join(exported, 'manifest.json'), encoding='utf-8') as file:
    values = json.load(file)
  assert values['format'] == 'mat-jax program' and values['format_version'] == 1
  assert values['platforms'] == ['cpu', 'cuda', 'tpu'] and values['jax_version'] == jax.__version__
  assert values['readable_by_jax'] == {
      'released_from': '2026-08-10', 'released_until': '2027-02-28',
      'counted_from': f'the release of jaxlib {values["jaxlib_version"]}'}
  assert values['model'] == {'resolution': 64, 'width': 0.03125, 'mapping_layers': 1}
  assert values['entries']['latents']['arguments']['keep_second'] == {
      'dtype': 'float32', 'shape': ['b', 16, 16, 16]}
  assert values['entries']['seeds']['result'] == {'dtype': 'uint8', 'shape': ['b', 64, 64, 3]}
  assert set(values['files']) < set(os.listdir(exported))
  weights = sum(array.nbytes for array in jax.tree.leaves(checkpoint.variables))
  programs = [values['files'][f'{entry}.jax_export']['bytes'] for entry in entries.ENTRIES]
  assert max(programs) < 1e6 < weights, 'no entry holds the weights'


def test_days_are_counted_from_the_export_if_no_other_is_known():
  found = manifest.readable_by_jax(datetime.date(2026, 11, 26), None, '0.10.2')
  assert (found.released_from, found.released_until) == ('2026-11-05', '2027-05-26')
  assert found.counted_from.startswith('the export, as a bound')


def test_bad_requests_leave_nothing(checkpoint, tmp_path):
  for arguments, message in (
      ((str(tmp_path / 'none'), str(tmp_path / 'out')), 'there is no checkpoint in'),
      ((str(tmp_path), str(tmp_path / 'out'), ['gpu']), 'platform gpu .*cpu, cuda, rocm, tpu'),
      ((str(tmp_path), str(tmp_path / 'out'), []), 'the platform to export for')):
    with pytest.raises(UserError, match=message):
      program.export_program(*arguments)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'mine').write_text('')
  with pytest.raises(UserError, match='exists and is not an empty folder'):
    program.export_checkpoint(checkpoint, str(tmp_path / 'full'))
  assert os.listdir(tmp_path) == ['full'] and os.listdir(tmp_path / 'full') == ['mine']


def test_a_model_with_labels_is_refused(checkpoint, tmp_path):
  model = checkpoint.model.copy_and_resolve_references()
  model.label_dim = 3
  with pytest.raises(UserError, match='takes 3 labels'):
    program.export_checkpoint(
        EmaCheckpoint(0, model, 0, checkpoint.variables, ''), str(tmp_path / 'out'))
