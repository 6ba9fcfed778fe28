"""Converting PyTorch checkpoints; the files are written without torch."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

from flax import traverse_util
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from convert import architecture, from_torch, names, to_torch, torch_reader
from mat_jax import Discriminator, Generator
from mat_jax.checkpoints import items, reader, step_directories
from mat_jax.errors import UserError
from mat_jax.nn import model_config
from mat_jax.runtime import buckets
from tests.support import torch_files as files
from tests.support.paths import ROOT

GENERATOR = Generator(64, mapping_layers=2, width=0.0625)
DISCRIMINATOR = Discriminator(64, width=0.0625)
_WEIGHT = 'synthesis.enc.EncConv_Block_64x64.conv1.weight'
_STRENGTH = 'synthesis.dec.Dec_32x32.conv0.noise_strength'
_DECIDING = 'synthesis.enc.EncConv_Block_16x16.conv1.bias'  # one of those that tell the width


@functools.lru_cache
def _cached(module, seed):
  rng = np.random.default_rng(seed)
  variables = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32),
                           from_torch.variable_shapes(module))
  if isinstance(module, Generator):
    return to_torch.generator_state_dict(variables)
  return to_torch.discriminator_state_dict(variables)


def state_dict(module, seed=0):
  """Random values under the PyTorch names."""
  return dict(_cached(module, seed))


def variables_of(module, values):
  if isinstance(module, Generator):
    return from_torch.generator_variables(values)
  return from_torch.discriminator_variables(values)


def assert_same_tree(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == np.float32 and a.shape == b.shape
    np.testing.assert_array_equal(a, b)


def official_tree(arrays, class_name='Generator'):
  """A module of the official pickle from a flat state dict."""
  own = {name: files.official_tensor(array) for name, array in arrays.items() if '.' not in name}
  children = {}
  for name, array in arrays.items():
    if '.' in name:
      child, rest = name.split('.', 1)
      children.setdefault(child, {})[rest] = array
  return files.module(class_name, files.state_of(
      own, children={name: official_tree(part, 'Part') for name, part in children.items()},
      _init_args=(), _init_kwargs={'resolution': 2**1024}, resolution=2**512))


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


def write_pth(path, networks):
  """A `torch.save` file with a dict of state dicts."""
  tree, arrays = {}, {}
  for network, values in networks.items():
    tree[network] = {}
    for name, array in values.items():
      key = str(len(arrays))
      arrays[key] = np.ravel(array)
      tree[network][name] = files.tensor(files.storage(key, arrays[key]), np.shape(array))
  path.write_bytes(files.archive(tree, arrays))
  return path


@pytest.mark.parametrize('module', [
    GENERATOR, DISCRIMINATOR, Generator(128, label_dim=3, mapping_layers=3, width=0.0625),
    Discriminator(128, label_dim=3, width=0.0625)], ids=lambda module: repr(module)[:30])
def test_round_trip_is_exact(module):
  values = state_dict(module)
  variables = variables_of(module, values)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(variables))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(
      lambda x: x.shape, from_torch.variable_shapes(module))
  back = to_torch.generator_state_dict(variables) if isinstance(module, Generator) else (
      to_torch.discriminator_state_dict(variables))
  files.assert_same({name: back[name] for name in values}, values)
  assert len(back) == len(values)


def test_values_arrive_where_they_belong():
  values = state_dict(GENERATOR)
  synthesis = variables_of(GENERATOR, values)['params']['synthesis']
  kernel = synthesis['enc']['block_64']['conv1']['kernel']
  assert kernel[2, 0, 1, 3] == values[_WEIGHT][3, 1, 2, 0]
  kernel = synthesis['dec']['block_32']['conv0']['conv']['kernel']
  assert kernel[2, 0, 1, 3] == values['synthesis.dec.Dec_32x32.conv0.conv.weight'][0, 3, 1, 2, 0]
  assert synthesis['dec']['block_32']['conv0']['noise_strength'] == values[_STRENGTH]
  kernel = synthesis['first_stage']['tran_1']['blocks_2']['fuse']['kernel']
  np.testing.assert_array_equal(
      kernel.T, values['synthesis.first_stage.tran.1.blocks.2.fuse.weight'])
  values = state_dict(DISCRIMINATOR)
  stage1 = variables_of(DISCRIMINATOR, values)['params']['dis_stage1']
  np.testing.assert_array_equal(stage1['fc0']['kernel'].T, values['fc0_stg1.weight'])
  np.testing.assert_array_equal(stage1['block_16']['conv1']['bias'],
                                values['Dis_stg1.3.conv1.bias'])


@pytest.mark.parametrize('resolution,width', [
    (64, 0.0625), (64, 0.1), (256, 1.0), (256, 0.3), (512, 0.35)])
def test_sizes_are_read_off(resolution, width):
  for module, read in ((Generator(resolution, 5, 4, width), architecture.generator_from),
                       (Discriminator(resolution, 5, width), architecture.discriminator_from)):
    shapes = from_torch.variable_shapes(module)
    values = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    assert read(_named(module, values)) == module


def _named(module, values):
  """Names and shapes as `to_torch` gives them, without its copies."""
  name_of = names.generator_name if isinstance(module, Generator) else names.discriminator_name
  flat = traverse_util.flatten_dict(values)
  return {name_of('/'.join(path[1:]), module.resolution):
          names.to_published_layout(value, path[-1], False) for path, value in flat.items()}


def test_derivable_buffers_may_be_missing_or_extra():
  values = state_dict(GENERATOR)
  few = {name: array for name, array in values.items()
         if not name.endswith(('resample_filter', 'attn_mask'))}
  assert len(few) < len(values)
  many = {**values, 'synthesis.first_stage.tran.2.blocks.1.attn_mask': np.zeros((1, 4, 4)),
          'resample_filter': values['synthesis.to_style.conv.0.resample_filter']}
  assert_same_tree(variables_of(GENERATOR, few), variables_of(GENERATOR, many))


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_become_float32(dtype):
  values = {name: array.astype(dtype) for name, array in state_dict(GENERATOR).items()}
  want = {name: array.astype(np.float32) for name, array in values.items()}
  assert_same_tree(variables_of(GENERATOR, values), variables_of(GENERATOR, want))


def test_scalars_may_have_one_dimension():
  values = state_dict(GENERATOR)
  want = variables_of(GENERATOR, values)
  scalars = {name for name, array in values.items() if array.shape == ()}
  assert _STRENGTH in scalars
  longer = {name: array.reshape(1) if name in scalars else array
            for name, array in values.items()}
  assert_same_tree(variables_of(GENERATOR, longer), want)
  for name, shape in ((_STRENGTH, (1, 1)), ('mapping.w_avg', (1, 512)),
                      ('mapping.fc0.bias', (512, 1))):
    with pytest.raises(UserError, match=re.escape(f'{name} has shape {shape}')):
      variables_of(GENERATOR, {**values, name: values[name].reshape(shape)})


@pytest.mark.parametrize('module', [GENERATOR, DISCRIMINATOR])
def test_every_missing_parameter_is_named(module):
  values = state_dict(module)
  for name in list(values)[::7]:
    if name.endswith(('resample_filter', 'attn_mask')):
      continue
    with pytest.raises(UserError, match=re.escape(name)):
      variables_of(module, {key: value for key, value in values.items() if key != name})


@pytest.mark.parametrize('name', [_WEIGHT, _STRENGTH, _DECIDING, 'mapping.fc1.weight',
                                  'mapping.w_avg', 'synthesis.dec.Dec_64x64.toRGB.conv.weight'])
def test_a_misshapen_parameter_is_named(name):
  values = state_dict(GENERATOR)
  for array in (np.zeros((*values[name].shape, 2), np.float32), np.zeros((3, 2), np.float32),
                np.zeros((4,), np.float32)):
    with pytest.raises(UserError, match=re.escape(f'{name} has shape {array.shape}')):
      variables_of(GENERATOR, {**values, name: array})


@pytest.mark.parametrize('module,change,message', [
    (GENERATOR, {'synthesis.extra.weight': np.zeros(3)}, 'has synthesis.extra.weight, which a '),
    (GENERATOR, {'mapping.fc2.weight': np.zeros((512, 512))}, 'needs mapping.fc2.bias'),
    (GENERATOR, {'a': np.zeros(3), 'b': np.zeros(3)}, 'has a and 1 more, which a generator of 64'),
    (GENERATOR, {_WEIGHT: np.zeros((32, 32, 3, 3), np.int32)}, f'{_WEIGHT} holds int32'),
    (GENERATOR, {'synthesis.enc.EncConv_Block_96x96.conv0.bias': np.zeros(32)}, 'resolution 96'),
    (GENERATOR, {'mapping.embed.weight': np.zeros(32)}, r'embed.weight has shape \(32,\)'),
    (DISCRIMINATOR, {'Dis.50.bias': np.zeros(32)}, 'more than 4096'),
    (DISCRIMINATOR, {'fc2.bias': np.zeros(32)}, 'has fc2.bias, which a discriminator of 64 px')])
def test_what_does_not_belong_is_named(module, change, message):
  with pytest.raises(UserError, match=message):
    variables_of(module, {**state_dict(module), **change})


def test_networks_are_not_confused():
  with pytest.raises(UserError, match='no MAT generator'):
    from_torch.generator_variables(state_dict(DISCRIMINATOR))
  with pytest.raises(UserError, match='no MAT discriminator'):
    from_torch.discriminator_variables(state_dict(GENERATOR))


def test_without_noise_tensors(caplog):
  values = state_dict(GENERATOR)
  noise = {name for name in values if name.endswith(('noise_const', 'noise_strength'))}
  quiet = {name: array for name, array in values.items() if name not in noise}
  zeros = {name: np.zeros_like(values[name]) for name in noise}
  assert_same_tree(variables_of(GENERATOR, quiet), variables_of(GENERATOR, {**values, **zeros}))
  assert 'noise of strength 0' in caplog.text
  # Some of them missing is a damaged file.
  with pytest.raises(UserError, match=f'needs {_STRENGTH}, which'):
    variables_of(GENERATOR, {name: value for name, value in values.items() if name != _STRENGTH})


def test_another_filter_is_noticed(caplog):
  name = 'synthesis.to_style.conv.0.resample_filter'
  variables_of(GENERATOR, {**state_dict(GENERATOR), name: np.ones((2, 2), np.float32)})
  assert name in caplog.text


def test_converts_a_whole_checkpoint(official, tmp_path, capsys):
  output = tmp_path / 'models' / 'converted'
  from_torch.convert_file(str(official), str(output))
  printed = capsys.readouterr().out
  for name, module in (('G', GENERATOR), ('D', DISCRIMINATOR), ('G_ema', GENERATOR)):
    count = sum(x.size for x in jax.tree.leaves(from_torch.variable_shapes(module)['params']))
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
  assert_same_tree(from_torch.discriminator_variables(network.state_dict),
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


def run(*arguments, before='true'):
  """The command line, in a process of its own, after a shell command."""
  return subprocess.run(['sh', '-c', f'{before} && exec "$0" -m "$@"', sys.executable, *arguments],
                        capture_output=True, text=True, check=False,
                        cwd=ROOT)


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
