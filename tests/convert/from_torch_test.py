"""Converting PyTorch checkpoints; the files are written without torch."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from convert import from_torch, state_dicts, to_torch
from convert.torch_files import torch_reader
from mat_jax import Discriminator, Generator
from mat_jax.checkpoints import items, reader, step_directories
from mat_jax.errors import UserError
from mat_jax.nn import model_config
from mat_jax.runtime.storage import buckets
from tests.support import torch_files as files
from tests.support.paths import ROOT
from tests.support.torch_networks import (
  DISCRIMINATOR,
  GENERATOR,
  assert_same_tree,
  official_tree,
  run,
  state_dict,
  variables_of,
  write_pth,
)


@pytest.fixture
def official(tmp_path):
  """An official pickle with three networks."""
  path = tmp_path / 'official.pkl'
  path.write_bytes(files.dumps({
      'G': official_tree(state_dict(GENERATOR, 1)),
      'D': official_tree(state_dict(DISCRIMINATOR, 2), 'Discriminator'),
      'G_ema': official_tree(state_dict(GENERATOR, 3)), 'augment_pipe': None}))
  return path


@pytest.fixture
def several(tmp_path):
  """A `torch.save` file with the same three networks, which is read faster."""
  return write_pth(tmp_path / 'networks.pth', {
      'G': state_dict(GENERATOR, 1), 'D': state_dict(DISCRIMINATOR, 2),
      'G_ema': state_dict(GENERATOR, 3)})


def test_converts_a_whole_checkpoint(official, tmp_path, capsys):
  output = tmp_path / 'models' / 'converted'
  from_torch.convert_file(str(official), str(output))
  printed = capsys.readouterr().out
  for name, module in (('G', GENERATOR), ('D', DISCRIMINATOR), ('G_ema', GENERATOR)):
    count = sum(x.size for x in jax.tree.leaves(state_dicts.variable_shapes(module)['params']))
    layers = r'2 ' if name != 'D' else '- '
    assert re.search(rf'^{name} +{count:,} +64 +{layers} +\d+ tensors, float32$', printed, re.M)
  assert 'fresh' not in printed and 'takes its place' not in printed
  average = reader.restore_ema(str(output))
  assert (average.step, average.images_seen) == (0, 0)
  assert average.path == str(output / 'checkpoints' / '0')
  assert_same_tree(average.variables, variables_of(GENERATOR, state_dict(GENERATOR, 3)))
  generator = model_config.generator_from_config(average.model)
  assert (generator.resolution, generator.mapping_layers, generator.width) == (64, 2, 0.0625)
  start = reader.restore_networks(str(output))
  g, d = start.networks, start.networks['d_params']
  assert_same_tree({'params': g['g_params'], 'buffers': g['g_buffers']},
                   variables_of(GENERATOR, state_dict(GENERATOR, 1)))
  assert_same_tree({'params': d}, variables_of(DISCRIMINATOR, state_dict(DISCRIMINATOR, 2)))
  assert_same_tree({'params': g['ema_params'], 'buffers': g['ema_buffers']}, average.variables)
  meta = step_directories.read_meta(average.path)
  assert meta['networks'] == ['G', 'D', 'G_ema'] and meta['source'] == 'official.pkl'
  config = json.loads((output / 'config.json').read_text())
  assert config['model'] == meta['model'] == {
      'resolution': 64, 'mapping_layers': 2, 'width': 0.0625, 'dtype': 'auto'}
  assert os.listdir(tmp_path / 'models') == ['converted']


def test_from_a_bucket_into_a_bucket_and_back(several, bucket, tmp_path, capsys):
  address, server = bucket
  buckets.write(f'{address}/networks.pth', several.read_bytes())
  before, output = len(server.requests), f'{address}/converted'
  from_torch.convert_file(f'{address}/networks.pth', output)
  assert f'Reading D of {address}/networks.pth.' in capsys.readouterr().out
  written = [name for method, name in server.requests[before:] if method == 'POST']
  assert written[-1].endswith('/converted/checkpoints/0/meta/metadata')
  average = reader.restore_ema(output)
  assert_same_tree(average.variables, variables_of(GENERATOR, state_dict(GENERATOR, 3)))
  to_torch.convert_file(output, f'{address}/back.pth', 'D')
  (tmp_path / 'back.pth').write_bytes(server.read(f'{address[len("gs://bucket/"):]}/back.pth'))
  found = torch_reader.read_networks(str(tmp_path / 'back.pth'), None)
  (network,) = found.values()
  assert_same_tree(state_dicts.discriminator_variables(network.state_dict),
                   variables_of(DISCRIMINATOR, state_dict(DISCRIMINATOR, 2)))
  with pytest.raises(UserError, match=f'^{output} exists and is not an empty folder'):
    from_torch.convert_file(f'{address}/networks.pth', output)
  with pytest.raises(UserError, match=rf'{address}/no\.pth') as caught:
    from_torch.convert_file(f'{address}/no.pth', f'{address}/other')
  assert '/tmp' not in str(caught.value) and not buckets.walk(f'{address}/other')


@pytest.mark.parametrize('networks,seeds,message', [
    (['G_ema'], (3, 3), 'No G was read: G_ema takes its place'),
    (['G'], (1, 1), 'No G_ema was read: G takes its place'),
    (['G', 'G_ema'], (3, 1), 'No discriminator was read: it will start fresh')])
def test_converts_some_networks(several, tmp_path, capsys, networks, seeds, message):
  output = str(tmp_path / 'converted')
  from_torch.convert_file(str(several), output, networks)
  printed = capsys.readouterr().out
  assert message in printed and 'discriminator was read' in printed
  found = reader.restore_networks(output).networks
  assert 'd_params' not in found
  for prefix, seed in zip(('ema', 'g'), seeds, strict=True):
    assert_same_tree({'params': found[f'{prefix}_params'], 'buffers': found[f'{prefix}_buffers']},
                     variables_of(GENERATOR, state_dict(GENERATOR, seed)))


@pytest.mark.parametrize('kind', ['zip', 'safetensors'])
def test_converts_a_plain_state_dict(tmp_path, capsys, kind):
  values = {name: array.astype(np.float16) for name, array in state_dict(GENERATOR).items()
            if not name.endswith(('resample_filter', 'attn_mask', 'noise_const', 'noise_strength'))}
  path = tmp_path / 'weights'
  if kind == 'zip':
    tree, arrays = files.state_dict(values)
    path.write_bytes(files.archive(tree, arrays))
  else:
    save_file(values, path)
  from_torch.convert_file(str(path), str(tmp_path / 'converted'))
  assert f'{len(values)} tensors, float16' in capsys.readouterr().out
  average = reader.restore_ema(str(tmp_path / 'converted'))
  assert_same_tree(average.variables, variables_of(GENERATOR, values))


def test_labels_are_kept(tmp_path, capsys):
  module = Generator(64, label_dim=3, mapping_layers=2, width=0.0625)
  source = write_pth(tmp_path / 'labels.pth', {'G_ema': state_dict(module)})
  from_torch.convert_file(str(source), str(tmp_path / 'converted'))
  assert 'labels of 3 classes' in capsys.readouterr().out
  average = reader.restore_ema(str(tmp_path / 'converted'))
  assert average.model['label_dim'] == 3
  assert_same_tree(average.variables, variables_of(module, state_dict(module)))


@pytest.mark.parametrize('networks,change,message', [
    (None, {'D': Discriminator(128, width=0.0625)}, 'network D: its resolution is 128'),
    (None, {'D': Discriminator(64, width=0.125)}, 'network D: its width is 0.125'),
    (None, {'G': Generator(64, mapping_layers=3, width=0.0625)},
     'network G: its mapping_layers is 3'),
    (None, {'D': GENERATOR}, 'network D: there are no Dis'),
    (['D'], {}, 'a generator is needed'), (['E'], {}, "no network 'E', only G, D, G_ema")])
def test_networks_have_to_fit_together(tmp_path, networks, change, message):
  modules = {'G': GENERATOR, 'D': DISCRIMINATOR, 'G_ema': GENERATOR, **change}
  source = write_pth(tmp_path / 'networks.pth',
                     {name: state_dict(module) for name, module in modules.items()})
  with pytest.raises(UserError, match=message):
    from_torch.convert_file(str(source), str(tmp_path / 'converted'), networks)
  assert os.listdir(tmp_path) == ['networks.pth']  # nothing partial


def test_existing_output(several, tmp_path):
  output = tmp_path / 'converted'
  output.mkdir()
  (output / 'mine.txt').write_text('keep')
  for path in (output, output / 'mine.txt', several):
    with pytest.raises(UserError, match=f'{path} exists and is not an empty folder'):
      from_torch.convert_file(str(several), str(path))
  assert (output / 'mine.txt').read_text() == 'keep'
  with pytest.raises(UserError, match='cannot be written: Not a directory'):
    from_torch.convert_file(str(several), str(several / 'converted'))
  (output / 'mine.txt').unlink()
  from_torch.convert_file(str(several), f'{output}/', ['G_ema'])
  assert reader.restore_ema(str(output)).step == 0


def test_full_disk_leaves_nothing(several, tmp_path, monkeypatch):
  """Seen before writing; a write that fails midway is among the command lines below."""
  before = sorted(os.listdir(tmp_path))
  monkeypatch.setattr(items.shutil, 'disk_usage', lambda path: type(
      'Usage', (), {'free': 1000}))
  with pytest.raises(UserError, match='converted cannot be written: it needs 5 MB, 0 MB are free'):
    from_torch.convert_file(str(several), str(tmp_path / 'converted'), ['G_ema'])
  assert sorted(os.listdir(tmp_path)) == before


def test_a_failed_write_is_named(several, tmp_path, monkeypatch):
  def fail(*args, **options):
    raise ValueError("Error writing: {'cache': true}'] [os_error_code='27'] [more='x']")

  monkeypatch.setattr(ocp.Checkpointer, 'save', fail)
  with pytest.raises(UserError, match='converted cannot be written: File too large$'):
    from_torch.convert_file(str(several), str(tmp_path / 'converted'), ['G_ema'])
  assert os.listdir(tmp_path) == ['networks.pth']


def test_command_line(official, tmp_path):
  result = run('convert.from_torch', f'--input={official}', f'--output={tmp_path}/converted',
               '--networks=G_ema')
  assert result.returncode == 0 and result.stderr == ''
  assert 'start fresh' in result.stdout
  result = run('convert.from_torch', f'--input={tmp_path}/none.pkl', f'--output={tmp_path}/new')
  assert result.returncode == 2
  assert re.fullmatch(r'error: .*none\.pkl cannot be read: No such file.*\n', result.stderr)
  result = run('convert.from_torch', f'--input={official}', f'--output={tmp_path}/new',
               before='ulimit -f 400')
  assert result.returncode == 2
  assert result.stderr == f'error: {tmp_path}/new cannot be written: File too large\n'
  assert sorted(os.listdir(tmp_path)) == ['converted', 'official.pkl']


def test_sigterm_leaves_nothing(official, tmp_path):
  process = subprocess.Popen(
      [sys.executable, '-m', 'convert.from_torch', f'--input={official}',
       f'--output={tmp_path}/converted'], cwd=ROOT)
  while process.poll() is None and not list(tmp_path.glob('converted.partial-*')):
    time.sleep(0.01)
  process.terminate()
  assert process.wait(60) == 128 + signal.SIGTERM
  assert os.listdir(tmp_path) == ['official.pkl']
