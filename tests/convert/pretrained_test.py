"""Saved generators: folders and the cache of the Hugging Face Hub, without a network."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from convert import from_torch, hub, model_card, pretrained, saved_models, to_torch
from mat_jax import Inpainter
from mat_jax.checkpoints.digest import variables_digest
from mat_jax.errors import UserError
from tests.support import small_generator

CARD = model_card.Card('cc-by-nc-4.0', datasets=('huggan/wikiart',), description='Of a "test".')


@pytest.fixture(scope='module')
def checkpoint():
  return small_generator.checkpoint()


@pytest.fixture(scope='module')
def saved(checkpoint, tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('pretrained') / 'model')
  saved_models.save_pretrained(checkpoint, folder, CARD)
  return folder


@pytest.fixture
def folder(saved, tmp_path):
  """A copy to damage."""
  return shutil.copytree(saved, tmp_path / 'model')


def _assert_same(found, wanted):
  assert found.model.to_dict() == wanted.model.to_dict()
  assert (found.step, found.images_seen) == (wanted.step, wanted.images_seen)
  assert jax.tree.structure(found.variables) == jax.tree.structure(wanted.variables)
  jax.tree.map(np.testing.assert_array_equal, found.variables, wanted.variables)


def _edit(folder, **changes):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


_FRESH = '''
import sys, numpy as np
sys.modules['huggingface_hub'] = None  # importing it fails
from mat_jax import Inpainter
arrays = np.load(sys.argv[2])
np.save(sys.argv[3], Inpainter.from_pretrained(sys.argv[1]).inpaint(
    arrays['image'], arrays['mask'], seed=3))
'''


def test_a_fresh_process_without_the_hub_gets_the_same_bits(checkpoint, saved, tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  mask = np.ones((64, 64), bool)
  mask[20:50, 10:40] = False
  np.savez(tmp_path / 'arrays.npz', image=image, mask=mask)
  done = subprocess.run(
      [sys.executable, '-c', _FRESH, saved, str(tmp_path / 'arrays.npz'),
       str(tmp_path / 'found.npy')],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_DEFAULT_MATMUL_PRECISION': 'float32'},
      capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = np.load(tmp_path / 'found.npy')
  np.testing.assert_array_equal(found, Inpainter(checkpoint).inpaint(image, mask, seed=3))
  assert np.any(found[0] != image)


def test_the_way_back_is_exact(checkpoint, saved):
  _assert_same(pretrained.from_pretrained(saved), checkpoint)
  assert pretrained.from_pretrained(saved).path == saved


def test_an_inpainter_saves_itself(checkpoint, tmp_path):
  Inpainter(checkpoint).save_pretrained(str(tmp_path / 'out'), 'apache-2.0', description='x')
  _assert_same(Inpainter.from_pretrained(str(tmp_path / 'out')).checkpoint, checkpoint)


def test_a_saved_model_and_a_converted_one_are_told_apart(checkpoint, saved, tmp_path):
  converted = str(tmp_path / 'converted')
  from_torch.convert_file(os.path.join(saved, 'model.safetensors'), converted)
  for folder in (saved, converted):  # both have a config.json
    assert os.path.isfile(os.path.join(folder, 'config.json'))
    found = Inpainter.from_checkpoint(folder).checkpoint
    jax.tree.map(np.testing.assert_array_equal, found.variables, checkpoint.variables)
    # Else a kept program of one would not serve the other.
    assert all(leaf.committed for leaf in jax.tree.leaves(found.variables))


def test_a_saved_model_is_written_for_other_programs(checkpoint, saved, tmp_path):
  output = str(tmp_path / 'model.safetensors')
  to_torch.convert_file(saved, output, target='iopaint')
  wanted = to_torch.without_noise(to_torch.generator_state_dict(checkpoint.variables))
  found = load_file(output)
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)
  with pytest.raises(UserError, match='has G_ema alone'):
    to_torch.convert_file(saved, output, network='G')


def test_names_and_layouts_are_those_of_pytorch(checkpoint, saved):
  found = load_file(os.path.join(saved, 'model.safetensors'))
  wanted = to_torch.generator_state_dict(checkpoint.variables)
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)
  with safe_open(os.path.join(saved, 'model.safetensors'), framework='numpy') as file:
    assert file.metadata() == {'format': 'pt'}


def test_the_card_has_the_header_of_the_hub(saved):
  yaml = pytest.importorskip('yaml')
  with open(os.path.join(saved, 'README.md'), encoding='utf-8') as file:
    _, header, body = file.read().split('---\n', 2)
  assert yaml.safe_load(header) == {
      'license': 'cc-by-nc-4.0', 'datasets': ['huggan/wikiart'], 'library_name': 'mat-jax',
      'pipeline_tag': 'image-to-image', 'tags': list(model_card.TAGS)}
  assert '| resolution | 64 px |' in body and 'Of a "test".' in body and '$' not in body


@pytest.mark.parametrize('arguments,message', [
    ({'license': 'my licence'}, "licence 'my licence' is no identifier"),
    ({'license': 'other'}, 'needs license_name and license_link'),
    ({'license': 'mit', 'license_name': 'x', 'license_link': 'y'}, 'no other licence takes them')])
def test_licences_are_checked(arguments, message):
  with pytest.raises(UserError, match=message):
    model_card.Card(**arguments)


@pytest.mark.parametrize('changes,message', [
    ({'format': 'other'}, 'config.json is not that of a mat-jax pretrained model'),
    ({'format_version': 2}, 'format_version 2, this version of mat-jax reads 1'),
    ({'resolution': 100}, 'resolution 100 is not a power of two'),
    ({'resolution': 1 << 20}, 'resolution 1048576, which has to be a number from 1 to 4096'),
    ({'width': float('nan')}, 'has width nan'), ({'width': True}, 'has width True'),
    ({'mapping_layers': '1'}, "has mapping_layers '1'"),
    ({'mapping_layers': 2}, 'names a network of 64 px, width .* and 2 mapping layers, .*another'),
    ({'variables_sha256': '0' * 64}, 'damaged or was replaced')])
def test_a_config_that_does_not_fit(folder, changes, message):
  _edit(folder, **changes)
  with pytest.raises(UserError, match=message):
    pretrained.from_pretrained(str(folder))


@pytest.mark.parametrize('text', ['{', '[' * 100_000, ' ' * 2_000_000])
def test_a_config_that_is_none(folder, text):
  (folder / 'config.json').write_text(text)
  with pytest.raises(UserError, match='is no saved model: its config.json cannot be read'):
    pretrained.from_pretrained(str(folder))


def test_weights_that_are_none(folder):
  path = folder / 'model.safetensors'
  whole = load_file(path)
  data = path.read_bytes()
  for damaged, message in ((data[:-8], 'is a damaged safetensors file'),
                           (b'pickle', 'is a damaged safetensors file')):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=message):
      pretrained.from_pretrained(str(folder))
  whole.pop('mapping.fc0.bias')
  save_file(whole, path)
  with pytest.raises(UserError, match='needs mapping.fc0.bias, which the file lacks'):
    pretrained.from_pretrained(str(folder))
  path.unlink()
  with pytest.raises(UserError, match='has no model.safetensors that can be read'):
    pretrained.from_pretrained(str(folder))


def test_a_changed_value_is_found_unless_it_is_meant(folder):
  path = folder / 'model.safetensors'
  values = load_file(path)
  values['mapping.fc0.bias'][3] += 1e-6
  save_file(values, path)
  with pytest.raises(UserError, match='remove variables_sha256'):
    pretrained.from_pretrained(str(folder))
  _edit(folder, variables_sha256='')
  pretrained.from_pretrained(str(folder))


def test_a_folder_in_the_way_stays(checkpoint, tmp_path):
  (tmp_path / 'mine').write_text('')
  with pytest.raises(UserError, match='exists and is not an empty folder'):
    saved_models.save_pretrained(checkpoint, str(tmp_path), CARD)
  assert os.listdir(tmp_path) == ['mine']
  model = checkpoint.model.copy_and_resolve_references()
  model.label_dim = 3
  with pytest.raises(UserError, match='takes 3 labels'):
    saved_models.save_pretrained(
        dataclasses.replace(checkpoint, model=model), str(tmp_path / 'out'), CARD)


def test_without_the_package_of_the_hub_a_sentence_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(UserError, match=r"pip install 'mat-jax\[hub\]'"):
    pretrained.from_pretrained('owner/model')


def test_a_path_is_no_repository():
  for path in ('/none/at/all', './none', 'a/b/c'):
    with pytest.raises(UserError, match='is no folder, nor the name of a repository'):
      pretrained.from_pretrained(path)


def _cached(saved, cache, name='owner/model'):
  """Puts a saved model where the package of the Hub keeps its downloads."""
  top = cache / f'models--{name.replace("/", "--")}'
  shutil.copytree(saved, top / 'snapshots' / ('0' * 40))
  (top / 'refs').mkdir()
  (top / 'refs' / 'main').write_text('0' * 40)
  return top / 'snapshots' / ('0' * 40)


def test_a_repository_of_the_hub_is_read_from_its_cache(checkpoint, saved, tmp_path):
  pytest.importorskip('huggingface_hub')
  files = _cached(saved, tmp_path)
  options = {'cache_dir': str(tmp_path), 'local_files_only': True}
  _assert_same(pretrained.from_pretrained('owner/model', **options), checkpoint)
  assert Inpainter.from_pretrained('owner/model', **options).resolution == 64
  with pytest.raises(UserError, match='owner/other is no folder here and cannot be read from the'):
    pretrained.from_pretrained('owner/other', **options)
  (files / 'config.json').write_text('[]')
  with pytest.raises(UserError, match='cannot be read from the Hugging Face Hub'):
    pretrained.from_pretrained('owner/model', **options)


def test_what_is_pushed_is_what_is_saved(checkpoint, saved, monkeypatch):
  huggingface_hub = pytest.importorskip('huggingface_hub')
  pushed = {}

  class Repository:
    repo_id = 'owner/model'

  def upload(self, *, folder_path, **kwargs):
    for name in os.listdir(folder_path):
      with open(os.path.join(folder_path, name), 'rb') as file:
        pushed[name] = file.read()
    return 'https://example.org/commit'

  monkeypatch.setattr(huggingface_hub.HfApi, 'create_repo', lambda self, **kwargs: Repository)
  monkeypatch.setattr(huggingface_hub.HfApi, 'upload_folder', upload)
  assert hub.push(checkpoint, 'owner/model', CARD) == 'https://example.org/commit'
  assert set(pushed) == {'README.md', 'config.json', 'model.safetensors'}
  for name, data in pushed.items():
    with open(os.path.join(saved, name), 'rb') as file:
      assert file.read() == data, name


def test_the_digest_is_of_names_shapes_and_values(checkpoint):
  variables = {'params': {'a': np.zeros((2, 3), np.float32), 'b': np.ones(2, np.float32)}}
  digest = variables_digest(variables)
  same = {'params': dict(reversed(variables['params'].items()))}
  assert variables_digest(jax.device_put(same)) == digest
  others = ({'params': {**variables['params'], 'a': np.zeros((3, 2), np.float32)}},
            {'params': {**variables['params'], 'b': np.float32([1, 2])}},
            {'buffers': variables['params']})
  assert len({digest, *map(variables_digest, others)}) == 4
