"""Writing PyTorch state dicts without torch."""

import io
import os
import pickletools
import re
import zipfile

import numpy as np
import pytest
from safetensors import safe_open

from convert import from_torch, to_torch
from convert.torch_files import torch_writer
from convert.torch_files.torch_reader import read_networks
from mat_jax import Generator
from mat_jax.errors import UserError
from tests.support import reference
from tests.support import torch_files as files
from tests.support import torch_networks as source

_NOISE = ('.noise_const', '.noise_strength')
_MODULES = {'G': (source.GENERATOR, 1), 'D': (source.DISCRIMINATOR, 2),
            'G_ema': (source.GENERATOR, 3)}


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
  """A converted checkpoint with all three networks."""
  folder = tmp_path_factory.mktemp('to_torch')
  path = source.write_pth(folder / 'networks.pth', {
      name: source.state_dict(module, seed) for name, (module, seed) in _MODULES.items()})
  from_torch.convert_file(str(path), str(folder / 'converted'))
  return folder / 'converted'


def read(path):
  return read_networks(path)['G_ema'].state_dict


@pytest.mark.parametrize('network,suffix', [
    ('G_ema', '.pth'), ('G_ema', '.safetensors'), ('G', '.safetensors'), ('D', '.pth')])
def test_the_way_back_is_exact(converted, tmp_path, network, suffix):
  output = tmp_path / f'weights{suffix}'
  to_torch.convert_file(str(converted), str(output), network)
  want = source.state_dict(*_MODULES[network])
  found = read(output)
  files.assert_same({name: found[name] for name in want}, want)
  assert len(found) == len(want)
  assert os.listdir(tmp_path) == [output.name]


def test_iopaint_has_no_noise(converted, tmp_path, capsys):
  output = tmp_path / 'weights.pth'
  to_torch.convert_file(str(converted), str(output), target='iopaint')
  want = {name: array for name, array in source.state_dict(*_MODULES['G_ema']).items()
          if not name.endswith(_NOISE)}
  found = read(output)
  files.assert_same({name: found[name] for name in want}, want)
  assert len(found) == len(want) < len(source.state_dict(source.GENERATOR))
  told = capsys.readouterr().out
  assert 'resolution 64' in told and 'IOPaint removes the file' in told
  strongest = max(abs(array.item()) for name, array in source.state_dict(*_MODULES['G_ema']).items()
                  if name.endswith('noise_strength'))
  assert f'strengths up to {strongest:.2g}; results there lack it' in told
  # And such a file converts again; it has no noise to lack then.
  from_torch.convert_file(str(output), str(tmp_path / 'again'))
  to_torch.convert_file(str(tmp_path / 'again'), str(output), target='iopaint')
  assert 'strengths' not in capsys.readouterr().out


def test_what_iopaint_spandrel_and_comfyui_load_strictly():
  # Names and shapes of the network in iopaint 1.6.0, in spandrel_extra_arches 0.2.0 and in
  # comfyui-inpaint-nodes 1.4.2, as `benchmarks.pytorch.torch_programs` finds them.
  manifest = reference.load('manifest_512.json')['generator']
  shapes = {name: tuple(shape) for group in manifest.values() for name, shape in group.items()}
  variables = from_torch.generator_variables(
      {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
  found = to_torch.without_noise(to_torch.generator_state_dict(variables))
  assert {name: array.shape for name, array in found.items()} == {
      name: shape for name, shape in shapes.items() if not name.endswith(_NOISE)}
  assert len(found) == 465 and {array.dtype for array in found.values()} == {np.dtype('float32')}


def test_derivable_buffers():
  state_dict = source.state_dict(Generator(256, mapping_layers=1, width=0.03125))
  masks = {name: array for name, array in state_dict.items() if name.endswith('attn_mask')}
  stage = 'synthesis.first_stage.tran.{}.blocks.1.attn_mask'.format
  assert {name: mask.shape for name, mask in masks.items()} == {
      stage(0): (64, 64, 64), stage(1): (4, 256, 256), stage(3): (4, 256, 256),
      stage(4): (64, 64, 64)}
  for mask in masks.values():
    assert set(np.unique(mask)) == {-100.0, 0.0} and not mask[0].any()
    np.testing.assert_array_equal(mask, mask.transpose(0, 2, 1))
  last = masks[stage(1)][3].reshape(16, 16, 16, 16)  # all four borders meet in it
  assert last[0, 0, 7, 7] == 0 and last[0, 0, 7, 8] == last[0, 0, 8, 7] == -100
  taps = np.float32([1, 3, 3, 1])
  filters = [name for name in state_dict if name.endswith('resample_filter')]
  for name in filters:
    np.testing.assert_array_equal(state_dict[name], taps[:, None] * taps / 64)
  manifest = reference.load('manifest_256.json')['generator']['buffers']
  assert set(filters) == {name for name in manifest if name.endswith('resample_filter')}


def test_the_archive_holds_nothing_but_tensors(tmp_path):
  values = {'a.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 4),
            'scalar': np.array(2.5, np.float32), 'b': np.zeros(70_000, np.float32)}
  with open(tmp_path / 'weights.pth', 'wb') as file:
    torch_writer.write_state_dict(file, values)
  files.assert_same(read(tmp_path / 'weights.pth'), values)
  data = (tmp_path / 'weights.pth').read_bytes()
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    assert archive.testzip() is None
    assert [entry.filename for entry in archive.infolist()] == [
        f'archive/{name}' for name in ('data.pkl', 'byteorder', 'data/0', 'data/1', 'data/2',
                                       'version')]
    assert archive.read('archive/version') == b'3\n'
    assert archive.read('archive/byteorder') == b'little'
    for index, array in enumerate(values.values()):
      entry = archive.getinfo(f'archive/data/{index}')
      assert entry.compress_type == zipfile.ZIP_STORED
      assert data.index(array.tobytes(), entry.header_offset) % 64 == 0
    operations = list(pickletools.genops(archive.read('archive/data.pkl')))
  assert {argument for code, argument, _ in operations if code.name == 'GLOBAL'} == {
      'collections OrderedDict', 'torch._utils _rebuild_tensor_v2', 'torch FloatStorage'}
  # No more than what torch reads with weights_only=True.
  assert {code.name for code, _, _ in operations} <= {
      'PROTO', 'GLOBAL', 'EMPTY_TUPLE', 'REDUCE', 'MARK', 'BINUNICODE', 'BININT', 'TUPLE',
      'BINPERSID', 'NEWFALSE', 'SETITEMS', 'STOP'}


def test_safetensors_header(converted, tmp_path):
  to_torch.convert_file(str(converted), str(tmp_path / 'weights.safetensors'))
  with safe_open(tmp_path / 'weights.safetensors', framework='numpy') as file:
    assert file.metadata() == {'format': 'pt'}
    assert {file.get_slice(name).get_dtype() for name in file.keys()} == {'F32'}
  start = int.from_bytes((tmp_path / 'weights.safetensors').read_bytes()[:8], 'little')
  assert start % 8 == 0


def test_bad_requests(converted, tmp_path):
  output = str(tmp_path / 'weights.pth')
  for arguments, message in (
      ((str(converted), str(tmp_path / 'weights.bin')), 'not named .pth or .safetensors'),
      ((str(converted), output, 'D', 'iopaint'), 'no discriminator'),
      ((str(tmp_path / 'none'), output), 'there is no checkpoint in'),
      ((str(converted), f'{converted}/config.json/a.pth'), 'a.pth cannot be written')):
    with pytest.raises(UserError, match=message):
      to_torch.convert_file(*arguments)
  from_torch.convert_file(f'{converted.parent}/networks.pth', str(tmp_path / 'few'), ['G_ema'])
  with pytest.raises(UserError, match='has no discriminator'):
    to_torch.convert_file(str(tmp_path / 'few'), output, 'D')
  assert os.listdir(tmp_path) == ['few']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_failed_write_keeps_the_old_file(converted, tmp_path, monkeypatch, suffix):
  output = tmp_path / f'weights{suffix}'
  output.write_text('old')

  def fail(file, state_dict):
    file.write(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setitem(to_torch._WRITERS, suffix, fail)
  with pytest.raises(UserError, match='cannot be written: No space left'):
    to_torch.convert_file(str(converted), str(output))
  assert output.read_text() == 'old' and os.listdir(tmp_path) == [output.name]
  monkeypatch.undo()
  to_torch.convert_file(str(converted), str(output))
  assert len(read(output)) == len(source.state_dict(source.GENERATOR))


def test_command_line(converted, tmp_path):
  result = source.run('convert.to_torch', f'--checkpoint={converted}',
                      f'--output={tmp_path}/weights.pth', '--network=D')
  assert result.returncode == 0 and result.stderr == ''
  files.assert_same({name: read(tmp_path / 'weights.pth')[name]
                     for name in source.state_dict(*_MODULES['D'])},
                    source.state_dict(*_MODULES['D']))
  result = source.run('convert.to_torch', f'--checkpoint={converted}', '--output=a.pth',
                      '--target=photoshop')
  assert result.returncode == 2 and re.fullmatch(r'error: .*target.*\n', result.stderr)
