"""Reading checkpoints; the files are written by `tests.support.torch_files`."""

import io
import time
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.torch_files import torch_reader
from convert.torch_files.torch_reader import read_networks
from mat_jax.errors import UserError
from tests.support.torch_files import (
    KINDS,
    Made,
    Persistent,
    Ref,
    archive,
    arrays_of,
    assert_same,
    dumps,
    module,
    network,
    official,
    official_tensor,
    ordered,
    small_file,
    state_dict,
    state_of,
    storage,
    stream,
    tensor,
)

_FORMATS = ('official', 'zip', 'stream', 'safetensors')


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('location', ['cpu', 'cuda:0'])
def test_reads_official_pickle(put, protocol, location):
  networks = read_networks(put(official(protocol, location)))
  assert list(networks) == ['G', 'D', 'G_ema']
  for seed, name in enumerate(networks, 1):
    assert_same(networks[name].state_dict, arrays_of(seed))
  assert networks['G'].init_kwargs == {
      'z_dim': 512, 'mapping_kwargs': {'num_layers': 8}, 'gain': 0.5, 'sizes': [1, (2, None)],
      'on': True, 'device': 'cuda:0', 'resolution': 2**1024, 'names': {'a'}}
  assert str(2**1024) in repr(networks['G'])  # Python refuses to print longer ones


@pytest.mark.parametrize('kind', _FORMATS)
def test_reads_only_what_is_asked_for(put, tmp_path, kind):
  path = put(small_file(kind, tmp_path))
  assert torch_reader.network_names(path) == (
      ['G', 'D', 'G_ema'] if kind == 'official' else ['G_ema'])
  networks = read_networks(path, networks=('G_ema',))
  assert list(networks) == ['G_ema']
  if kind == 'safetensors':  # stored in the order of the names
    assert sorted(networks['G_ema'].state_dict) == sorted(arrays_of())
    for name, array in arrays_of(3).items():
      np.testing.assert_array_equal(networks['G_ema'].state_dict[name], array)
  else:
    assert_same(networks['G_ema'].state_dict, arrays_of(3))
  with pytest.raises(UserError, match="no network 'E', only"):
    read_networks(path, networks=('G_ema', 'E'))


@pytest.mark.parametrize('pack', [archive, stream])
@pytest.mark.parametrize('location', ['cpu', 'cuda:1'])
def test_reads_every_dtype(put, pack, location):
  arrays = {name: (np.arange(6).reshape(2, 3) % 3).astype(
      ml_dtypes.bfloat16 if name == 'bfloat16' else name) for name in KINDS}
  got = read_networks(put(pack(*state_dict(arrays, location))))['G_ema']
  assert_same(got.state_dict, arrays)
  assert got.init_kwargs == {}


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_reads_untyped_storage_with_dtype(put, protocol):
  numbers = np.arange(8, dtype=np.uint16)
  node = Persistent(('storage', Ref('torch.storage', 'UntypedStorage'), '0', 'cpu', 16))
  tree = {'a': Made('torch._utils', '_rebuild_tensor_v3', (
      node, 2, (2, 3), (3, 1), False, ordered({}), Ref('torch', 'uint16'), None))}
  got = read_networks(put(archive(tree, {'0': numbers}, protocol)))['G_ema'].state_dict
  assert_same(got, {'a': numbers[2:].reshape(2, 3)})


@pytest.mark.parametrize('pack', [archive, stream])
def test_strides_offsets_and_shared_storage(put, pack):
  numbers = np.arange(24, dtype=np.float32)
  cube = numbers.reshape(2, 3, 4)
  node = storage('7', numbers)
  items = {'whole': ((2, 3, 4), (12, 4, 1), 0), 'transposed': ((4, 3, 2), (1, 4, 12), 0),
           'slice': ((2, 2), (8, 3), 4), 'column': ((1, 3), (999, 4), 13), 'one': ((), (), 5),
           'expanded': ((3, 4), (0, 1), 20), 'again': ((2, 3, 4), (12, 4, 1), 0),
           'empty': ((0, 3), (3, 1), 0)}
  tree = {name: tensor(node, *shape) for name, shape in items.items()}
  got = read_networks(put(pack(tree, {'7': numbers})))['G_ema'].state_dict
  assert_same(got, {
      'whole': cube, 'transposed': cube.transpose(2, 1, 0).copy(),
      'slice': np.float32([[4, 7], [12, 15]]), 'column': np.float32([[13, 17, 21]]),
      'one': np.float32(5).reshape(()), 'expanded': np.tile(numbers[20:], (3, 1)),
      'again': cube, 'empty': np.zeros((0, 3), np.float32)})
  assert got['whole'] is got['again']


def test_files_of_early_versions(put):
  """As in torchvision's VGGs: `_rebuild_tensor`, and an OrderedDict stored by Python 2."""
  arrays = {'a': np.float32([[1, 2], [3, 4]]), 'b': np.float32([5])}
  pairs = [[name, Made('torch._utils', '_rebuild_tensor', (
      storage(name, array.ravel()), 0, array.shape, (2, 1)[-array.ndim:]))]
           for name, array in arrays.items()]
  tree = Made('collections', 'OrderedDict', (pairs,))
  found = read_networks(put(stream(tree, {name: array.ravel() for name, array in arrays.items()})))
  assert_same(found['G_ema'].state_dict, arrays)


@pytest.mark.parametrize('args', (('a',), ([['a']],), ([['a', 1, 2]],), ([[1, 2]],), ([], [])))
def test_damaged_ordered_dict(put, args):
  with pytest.raises(UserError, match='damaged dict'):
    read_networks(put(dumps(Made('collections', 'OrderedDict', args))))


@pytest.mark.parametrize('pack', [archive, stream])
def test_splits_and_unwraps_dicts(put, pack):
  tree, arrays = state_dict(arrays_of())
  for wrapper in ('state_dict', 'params', 'model'):
    path = put(pack({wrapper: tree, 'epoch': 3, 'optimizer': {'state': {0: [1.5]}}}, arrays))
    networks = read_networks(path)
    assert list(networks) == ['G_ema']
    assert_same(networks['G_ema'].state_dict, arrays_of())
  networks = read_networks(put(pack({'G_ema': {'params': tree}, 'G': tree, 'nimg': 9}, arrays)))
  assert list(networks) == ['G', 'G_ema']
  assert_same(networks['G_ema'].state_dict, arrays_of())
  with pytest.raises(UserError, match='several state dicts'):
    read_networks(put(pack({'params': tree, 'model': tree}, arrays)))
  with pytest.raises(UserError, match="entry 'epoch' that is not a tensor"):
    read_networks(put(pack({**tree.items, 'epoch': 3}, arrays)))
  with pytest.raises(UserError, match='holds neither'):
    read_networks(put(pack([tree], arrays)))


def test_safetensors(tmp_path, put):
  arrays = {name: np.arange(6).reshape(2, 3).astype(
      ml_dtypes.bfloat16 if name == 'bfloat16' else name)
      for name in KINDS}
  save_file(arrays, tmp_path / 'all.safetensors')
  got = read_networks(tmp_path / 'all.safetensors')['G_ema'].state_dict
  assert_same({name: got[name] for name in arrays}, arrays)
  data = (tmp_path / 'all.safetensors').read_bytes()
  for bad in (data[:-1], data[:40], data[:8] + b'{"a":' + data[13:],
              data.replace(b'"I8"', b'"X8"')):
    with pytest.raises(UserError, match='damaged safetensors'):
      read_networks(put(bad))


def test_non_persistent_buffers_and_none_are_left_out(put):
  state = state_of({'weight': official_tensor(np.float32([1])), 'bias': None},
                   {'cache': official_tensor(np.float32([2]))}, {'gone': None})
  state['_non_persistent_buffers_set'] = Made('builtins', 'set', (['cache'],))
  got = read_networks(put(dumps({'G': module('Generator', state)})))
  assert list(got['G'].state_dict) == ['weight']


@pytest.mark.parametrize('pack', [archive, stream])
@pytest.mark.parametrize('size, stride, offset', [
    ((5,), (1,), 0), ((2, 2), (3, 1), 0), ((4,), (1,), 1), ((1,), (1,), 1 << 70),
    ((2,), (1 << 70,), 0), ((0, 1 << 70), (1, 1), 0), ((1 << 62,), (0,), 0),
    ((100_000, 100_000), (0, 0), 0), ((2,), (-1,), 1), ((-2,), (1,), 0), ((2,), (1, 1), 0),
    ((1,) * 65, (1,) * 65, 0), ((2.0,), (1,), 0), (('2',), (1,), 0), ((2,), (1,), -1),
    ((2,), (1,), None)])
def test_refuses_impossible_tensors(put, pack, size, stride, offset):
  numbers = np.arange(4, dtype=np.float32)
  tree = {'weight': tensor(storage('0', numbers), size, stride, offset)}
  with pytest.raises(UserError, match="tensor 'weight'"):
    read_networks(put(pack(tree, {'0': numbers})))


@pytest.mark.parametrize('pack', [archive, stream])
@pytest.mark.parametrize('persistent_id', [
    ('module', Ref('torch', 'FloatStorage'), '0', 'cpu', 4), ('storage',), 'storage', 7,
    ('storage', Ref('torch', 'FloatStorage'), '0', 'cpu', -4),
    ('storage', Ref('torch', 'float32'), '0', 'cpu', 4),
    ('storage', Ref('torch', 'FloatStorage'), '0', 'cpu', 4, ('1', 0, 4)),
    ('storage', Ref('torch', 'FloatStorage'), '1', 'cpu', 4),
    ('storage', Ref('torch', 'FloatStorage'), '0', 'cpu', 5)])
def test_refuses_impossible_storages(put, pack, persistent_id):
  tree = {'weight': tensor(Persistent(persistent_id), (4,))}
  with pytest.raises(UserError, match='persistent id|lacks|another size'):
    read_networks(put(pack(tree, {'0': np.zeros(4, np.float32)})))


@pytest.mark.parametrize('change, message', [
    ({'_non_persistent_buffers_set': 5}, None), ({'_parameters': 5}, 'damaged _parameters'),
    ({'_modules': ordered({'a.b': None})}, 'damaged _modules'), ({'_modules': None}, 'damaged'),
    ({'_buffers': ordered({'weight': 1})}, 'two tensors of one name'),
    ({'_buffers': ordered({'b': 1})}, "entry 'b' that is not a tensor"),
    ({'_modules': ordered({'a': 1})}, 'damaged module'),
    ({'_init_kwargs': {'a': b'1'}}, 'constructor argument'),
    ({'_init_kwargs': {'a': Made('numpy', 'dtype', ('O8', False, True))}}, 'NumPy type'),
    ({'_init_kwargs': {'a': Made('numpy.core.multiarray', 'scalar', (
        Made('numpy', 'dtype', ('O8',), state=(3, '|', None)), b'12345678'))}}, 'NumPy type')])
def test_odd_modules(put, change, message):
  state = state_of({'weight': official_tensor(np.float32([1]))})
  path = put(dumps({'G': module('Generator', state | change)}))
  if message is None:
    assert list(read_networks(path)['G'].state_dict) == ['weight']
  else:
    with pytest.raises(UserError, match=message):
      read_networks(path)


def test_refuses_a_module_that_contains_itself(put):
  made = b'ctorch.nn.modules.container\nSequential\n)\x81q\x01'
  state = dumps({'_parameters': {}, '_buffers': {}})[2:-1]
  tie = b'X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x01ss'  # state['_modules']['a'] = itself
  with pytest.raises(UserError, match='contains itself'):
    read_networks(put(b'\x80\x03}X\x01\x00\x00\x00G' + made + state + tie + b'bs.'))


def test_refuses_towers(put):
  """Every level holds the level below twice: 2^30 modules in a few kilobytes."""
  weight = {'weight': official_tensor(np.float32([1]))}
  modules, kwargs = module('Conv', state_of(weight)), Made('dnnlib.util', 'EasyDict')
  for _ in range(30):
    modules = module('Conv', state_of(children={'a': modules, 'b': modules}))
    kwargs = Made('dnnlib.util', 'EasyDict', items={'a': kwargs, 'b': kwargs})
  with pytest.raises(UserError, match='contains itself, or far more'):
    read_networks(put(dumps({'G': modules})))
  with pytest.raises(UserError, match='endless constructor arguments'):
    read_networks(put(dumps({'G': module('Generator', state_of(weight, _init_kwargs=kwargs))})))


def test_zip_archives_that_torch_does_not_write(put):
  tree, arrays = state_dict(arrays_of())
  with pytest.raises(UserError, match='big-endian'):
    read_networks(put(archive(tree, arrays, byteorder='big')))
  with pytest.raises(UserError, match='compressed'):
    read_networks(put(archive(tree, arrays, compression=zipfile.ZIP_DEFLATED)))
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w') as file:
    file.writestr('readme.txt', 'hello')
  with pytest.raises(UserError, match='not one of torch.save'):
    read_networks(put(out.getvalue()))
  data = archive(tree, arrays)
  place = data.index(arrays['1'].tobytes())
  with pytest.raises(UserError, match='damaged zip'):  # found by its checksum
    read_networks(put(data[:place] + b'\x00\x01' + data[place + 2:]))


@pytest.mark.parametrize('kind', _FORMATS)
def test_truncated(put, tmp_path, kind):
  data = small_file(kind, tmp_path)
  for length in (*range(1, 80), *range(80, len(data), len(data) // 60), len(data) - 1):
    with pytest.raises(UserError, match='checkpoint.bin'):
      read_networks(put(data[:length]))


def test_not_a_checkpoint(put, tmp_path):
  with pytest.raises(UserError, match='missing.pkl cannot be read: No such file'):
    read_networks(tmp_path / 'missing.pkl')
  with pytest.raises(UserError, match='is not a file'):
    read_networks(tmp_path)
  with pytest.raises(UserError, match='is empty'):
    read_networks(put(b''))
  for text in (b'<!DOCTYPE html>\n<html>\n', b'version https://git-lfs.github.com/spec/v1\n',
               b'hello', b'conda create\n--name mat\n', b'\x89PNG\r\n\x1a\n', bytes(100)):
    with pytest.raises(UserError, match='neither a PyTorch checkpoint nor'):
      read_networks(put(text))


def test_reads_little_more_than_is_asked_for(put):
  big = {name: np.ones((500_000,), np.float32) for name in arrays_of()}  # 10 MB a network
  path = put(dumps({name: network(big) for name in ('G', 'D', 'G_ema')}))
  tracemalloc.start()
  networks = read_networks(path, networks=('G_ema',))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert_same(networks['G_ema'].state_dict, big)
  assert peak < 1.1 * sum(array.nbytes for array in big.values()) + 1e6


def mutate(data, rng):
  """Flips, cuts, drops, repeats or overwrites bytes at one or a few random places."""
  data, place = bytearray(data), int(rng.integers(len(data)))
  length = int(rng.integers(1, 9))
  match rng.integers(6):
    case 0:
      del data[place:]
    case 1:
      del data[place:place + length]
    case 2:
      data[place:place] = data[place:place + length]
    case 3:
      data[place:place + length] = bytes([rng.choice([0, 0x7f, 0x80, 0xff])]) * length
    case _:
      for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
  return bytes(data)


def fuzz(path, kind, valid, seeds):
  """Every outcome is a `UserError` or networks of arrays, soon and within 1 GB."""
  refused = 0
  tracemalloc.start()
  for seed in seeds:
    path.write_bytes(mutate(valid, np.random.default_rng(seed)))
    start = time.monotonic()
    try:
      networks = read_networks(path)
    except UserError as error:
      refused += 1
      assert str(path) in str(error) and '\n' not in str(error) and len(str(error)) < 500
    else:
      assert networks and all(isinstance(n, torch_reader.Network) for n in networks.values())
      for network_ in networks.values():
        assert all(type(array) is np.ndarray for array in network_.state_dict.values())
      if kind == 'zip':  # its checksums leave no room for other numbers
        assert_same(networks['G_ema'].state_dict, arrays_of(3))
    assert time.monotonic() - start < 10, seed
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1e9
  assert refused > len(seeds) // 10


@pytest.mark.parametrize('kind', _FORMATS)
def test_fuzz(tmp_path, kind):
  fuzz(tmp_path / 'mutated.bin', kind, small_file(kind, tmp_path), range(80))


@pytest.mark.slow
@pytest.mark.parametrize('kind', _FORMATS)
def test_fuzz_thoroughly(tmp_path, kind):
  fuzz(tmp_path / 'mutated.bin', kind, small_file(kind, tmp_path), range(1000, 3000))
