"""Tests of `convert.torch_reader` and `convert.safe_pickle`.

The files are written here operation by operation: no torch, and no stand-ins for it
in `sys.modules`.
"""

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import torch_reader
from convert.torch_reader import read_networks
from mat_jax.errors import UserError

_KINDS = {'float16': 'Half', 'bfloat16': 'BFloat16', 'float32': 'Float', 'float64': 'Double',
          'int8': 'Char', 'int16': 'Short', 'int32': 'Int', 'int64': 'Long', 'uint8': 'Byte',
          'bool': 'Bool', 'complex64': 'ComplexFloat'}
_FORMATS = ('official', 'zip', 'stream', 'safetensors')


class Ref:
  """A global."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class Made:
  """The result of a call, then BUILD with `state` and SETITEMS with `items`."""

  def __init__(self, module, name, args=(), state=None, items=None, operation=pickle.REDUCE):
    self.ref, self.args, self.operation = Ref(module, name), args, operation
    self.state, self.items = state, items


class Persistent:
  """A persistent id."""

  def __init__(self, value):
    self.value = value


def dumps(value, protocol=3):
  """A pickle of plain values and of the classes above."""
  out, memo = io.BytesIO(), {}
  out.write(pickle.PROTO + bytes([protocol]))
  _emit(out, value, protocol, memo)
  out.write(pickle.STOP)
  return out.getvalue()


def _emit(out, value, protocol, memo):
  emit = lambda part: _emit(out, part, protocol, memo)  # noqa: E731
  if isinstance(value, str):
    text = value.encode()
    out.write(pickle.BINUNICODE + struct.pack('<I', len(text)) + text)
  elif isinstance(value, bytes):
    out.write(pickle.BINBYTES + struct.pack('<I', len(value)) + value)
  elif isinstance(value, tuple | list):
    out.write(pickle.MARK)
    for part in value:
      emit(part)
    out.write(pickle.TUPLE if isinstance(value, tuple) else pickle.LIST)
  elif isinstance(value, dict):
    out.write(pickle.EMPTY_DICT)
    _emit_items(out, value, emit)
  elif isinstance(value, Ref):
    if protocol < 4:
      out.write(pickle.GLOBAL + f'{value.module}\n{value.name}\n'.encode())
    else:
      emit(value.module)
      emit(value.name)
      out.write(pickle.STACK_GLOBAL)
  elif isinstance(value, Persistent):
    emit(value.value)
    out.write(pickle.BINPERSID)
  elif isinstance(value, Made):
    _emit_made(out, value, emit, memo)
  else:  # None, bool, int, float: as pickle writes them, without its header and end
    out.write(pickle.dumps(value, 2)[2:-1])


def _emit_items(out, items, emit):
  out.write(pickle.MARK)
  for key, part in items.items():
    emit(key)
    emit(part)
  out.write(pickle.SETITEMS)


def _emit_made(out, value, emit, memo):
  if id(value) in memo:
    out.write(pickle.LONG_BINGET + struct.pack('<I', memo[id(value)]))
    return
  emit(value.ref)
  emit(value.args)
  out.write(value.operation)
  memo[id(value)] = len(memo)
  out.write(pickle.LONG_BINPUT + struct.pack('<I', memo[id(value)]))
  if value.state is not None:
    emit(value.state)
    out.write(pickle.BUILD)
  if value.items:
    _emit_items(out, value.items, emit)


def ordered(items):
  return Made('collections', 'OrderedDict', items=items)


def storage(key, array, location='cpu'):
  kind = Ref('torch', _KINDS[array.dtype.name] + 'Storage')
  return Persistent(('storage', kind, key, location, array.size))


def stream(tree, arrays, protocol=2):
  """The older torch.save format; `arrays` holds the storages by key."""
  system = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}
  parts = [dumps(part, protocol)
           for part in (0x1950a86a20f9469cfc6c, 1001, system, tree, sorted(arrays))]
  for _, array in sorted(arrays.items()):
    parts += [struct.pack('<q', array.size), array.tobytes()]
  return b''.join(parts)


def archive(tree, arrays, protocol=2, byteorder='little', compression=zipfile.ZIP_STORED):
  """The zip format of torch.save."""
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', compression) as file:
    file.writestr('model/data.pkl', dumps(tree, protocol))
    file.writestr('model/byteorder', byteorder)
    for key, array in arrays.items():
      file.writestr(f'model/data/{key}', array.tobytes())
    file.writestr('model/version', '3\n')
  return out.getvalue()


def tensor(storage_node, size, stride=None, offset=0):
  if stride is None:
    stride = tuple(int(np.prod(size[i + 1:])) for i in range(len(size)))
  return Made('torch._utils', '_rebuild_tensor_v2',
              (storage_node, offset, tuple(size), stride, False, ordered({})))


def official_tensor(array, location='cpu', parameter=True):
  data = stream(storage('94', array.ravel(), location), {'94': array.ravel()})
  node = tensor(Made('torch.storage', '_load_from_bytes', (data,)), array.shape)
  if not parameter:
    return node
  return Made('torch._utils', '_rebuild_parameter', (node, True, ordered({})))


def state_of(parameters=None, buffers=None, children=None, **attributes):
  return {'training': False, '_parameters': ordered(parameters or {}),
          '_buffers': ordered(buffers or {}), '_modules': ordered(children or {}),
          '_non_persistent_buffers_set': Made('builtins', 'set', ([],)),
          '_backward_hooks': ordered({}), **attributes}


def module(class_name, state, source='# source\n'):
  meta = {'type': 'class', 'version': 6, 'module_src': source, 'class_name': class_name,
          'state': state}
  return Made('torch_utils.persistence', '_reconstruct_persistent_obj', (meta,))


def arrays_of(seed=0):
  """What the networks below hold, by PyTorch name."""
  rng = np.random.default_rng(seed)
  return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (
      ('w_avg', (6,)), ('mapping.fc0.weight', (4, 5)), ('mapping.fc0.bias', (4,)),
      ('synthesis.blocks.0.weight', (2, 3, 1, 2)), ('synthesis.blocks.1.strength', ()))}


def network(arrays, location='cpu', source='# source\n'):
  """A module tree in the official layout, ModuleList included."""
  scalar = Made('numpy.core.multiarray', 'scalar',
                (Made('numpy', 'dtype', ('f8', False, True),
                      state=(3, '<', None, None, None, -1, -1, 0)), struct.pack('<d', 0.5)))
  kwargs = Made('dnnlib.util', 'EasyDict', operation=pickle.NEWOBJ, items={
      'z_dim': 512, 'mapping_kwargs': {'num_layers': 8}, 'gain': scalar,
      'sizes': [1, (2, None)], 'on': True, 'device': Made('torch', 'device', ('cuda', 0))})
  node = lambda name: official_tensor(arrays[name], location)  # noqa: E731
  blocks = Made('torch.nn.modules.container', 'ModuleList', operation=pickle.NEWOBJ, state=state_of(
      children={'0': module('Conv', state_of({'weight': node('synthesis.blocks.0.weight')})),
                '1': module('Conv', state_of({'strength': node('synthesis.blocks.1.strength')}))}))
  layer = module('FC', state_of({'weight': node('mapping.fc0.weight'),
                                 'bias': node('mapping.fc0.bias')}, act_gain=scalar))
  return module('Generator', state_of(
      {'nothing': None}, {'w_avg': official_tensor(arrays['w_avg'], location, parameter=False)},
      {'mapping': module('MappingNet', state_of(children={'fc0': layer}, num_layers=1)),
       'synthesis': module('SynthesisNet', state_of(children={'blocks': blocks}))},
      _init_args=(), _init_kwargs=kwargs), source)


def official(protocol=3, location='cpu', source='# source\n'):
  return dumps({'G': network(arrays_of(1), location, source), 'D': network(arrays_of(2), location),
                'G_ema': network(arrays_of(3), location, source), 'augment_pipe': None,
                'training_set_kwargs': Made('dnnlib.util', 'EasyDict', items={'resolution': 8})},
               protocol)


def state_dict(arrays, location='cpu'):
  """Tree and storages of a plain state dict with its `_metadata`."""
  items = {name: tensor(storage(str(i), array.ravel(), location), array.shape)
           for i, (name, array) in enumerate(arrays.items())}
  tree = Made('collections', 'OrderedDict', items=items,
              state={'_metadata': ordered({'': {'version': 1}})})
  return tree, {str(i): array.ravel() for i, array in enumerate(arrays.values())}


def small_file(kind, folder):
  """Bytes of a valid file that holds `arrays_of(3)` as G_ema."""
  if kind == 'official':
    return official()
  if kind == 'safetensors':
    save_file(arrays_of(3), folder / 'valid.safetensors')
    return (folder / 'valid.safetensors').read_bytes()
  return {'zip': archive, 'stream': stream}[kind](*state_dict(arrays_of(3)))


@pytest.fixture
def put(tmp_path):
  """Writes bytes to a file whose name says nothing about what is in it."""
  def write(data):
    path = tmp_path / 'checkpoint.bin'
    path.write_bytes(data)
    return path
  return write


def assert_same(got, want):
  assert list(got) == list(want)
  for name, array in want.items():
    assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
    np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert got[name].flags.c_contiguous and got[name].flags.writeable


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('location', ['cpu', 'cuda:0'])
def test_reads_official_pickle(put, protocol, location):
  networks = read_networks(put(official(protocol, location)))
  assert list(networks) == ['G', 'D', 'G_ema']
  for seed, name in enumerate(networks, 1):
    assert_same(networks[name].state_dict, arrays_of(seed))
  assert networks['G'].init_kwargs == {
      'z_dim': 512, 'mapping_kwargs': {'num_layers': 8}, 'gain': 0.5, 'sizes': [1, (2, None)],
      'on': True, 'device': 'cuda:0'}


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
      ml_dtypes.bfloat16 if name == 'bfloat16' else name) for name in _KINDS}
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
      for name in _KINDS}
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


class Evil:
  """Pickles as a call of `os.system` that would create a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('protocol', range(6))
def test_refuses_system_call(put, tmp_path, protocol):
  for value in (Evil(tmp_path / 'ran'), {'G_ema': {'a': Evil(tmp_path / 'ran')}}):
    with pytest.raises(UserError, match=r"checkpoint\.bin refers to '(posix|nt)\.system'"):
      read_networks(put(pickle.dumps(value, protocol)))
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('pack', [archive, stream])
@pytest.mark.parametrize('name', ['posix.system', 'builtins.eval', 'builtins.getattr',
                                  'torch.load', 'torch._utils.system', 'os.system'])
def test_refuses_globals_outside_the_list(put, tmp_path, pack, name):
  call = f"open({str(tmp_path / 'ran')!r}, 'w')"
  made = Made(*name.rsplit('.', 1), (call,))
  for protocol in (2, 4):
    with pytest.raises(UserError, match=name):
      read_networks(put(pack({'a': made}, {}, protocol)))
  with pytest.raises(UserError, match=name):
    read_networks(put(dumps({'G': module('Generator', state_of(_init_kwargs={'a': made}))})))
  # Inside the stream of a storage, where no more than storages belong.
  data = stream(Made(*name.rsplit('.', 1), (call,)), {})
  node = tensor(Made('torch.storage', '_load_from_bytes', (data,)), (1,))
  with pytest.raises(UserError, match=name):
    read_networks(put(dumps({'G': module('Generator', state_of({'weight': node}))})))
  assert not (tmp_path / 'ran').exists()


_SYSTEM = b'cposix\nsystem\n'
_LIST = b'ccollections\nOrderedDict\n'


@pytest.mark.parametrize('code, message', [
    (b'(X\x01\x00\x00\x00aiposix\nsystem\n.', 'posix.system'),  # INST
    (b'(X\x01\x00\x00\x00aicollections\nOrderedDict\n.', 'in a way'),
    (b'(' + _SYSTEM + b'o.', 'posix.system'),  # OBJ
    (b'(' + _LIST + b'o.', 'operation'),
    (_SYSTEM + b')\x81.', 'posix.system'),  # NEWOBJ
    (_SYSTEM + b')}\x92.', 'posix.system'),  # NEWOBJ_EX
    (_LIST + b')}\x92.', 'operation'),
    (b'\x8c\x05posix\x8c\x06system\x93.', 'posix.system'),  # STACK_GLOBAL
    (b'K\x01\x8c\x06system\x93.', 'without a name'),
    (b'\x82\x01.', 'operation'), (b'\x83\x01\x00.', 'operation'),  # EXT1, EXT2
    (b'\x84\x01\x00\x00\x00.', 'operation'),  # EXT4
    (b'Pmodel\n.', 'operation'),  # PERSID
    (b'K\x01Q.', 'persistent id'), (b'\x97.', 'operation'),  # BINPERSID, NEXT_BUFFER
    (b"S'text'\n.", 'operation'),  # STRING
    (b'K\x01)R.', 'wrong place'), (b'}}b.', 'wrong place'), (_LIST + b')R}b.', 'without tensors'),
    (b']K\x01K\x02s.', 'wrong place'), (b'}]K\x02s.', 'odd key'), (b'}(K\x01u.', 'without a value'),
    (b'R.', 'damaged'), (b'0.', 'damaged'), (b'a.', 'damaged'), (b'\x85.', 'damaged'),
    (b'h\x09.', 'reference to nothing'), (b'I12x\n.', 'damaged'), (b'\xff.', 'operation'),
    (b'L' + b'9' * 90 + b'L\n.', 'giant number'), (b'\x8b\xff\xff\xff\x7f.', 'giant number'),
    (b'\x8b\xff\xff\xff\xff.', 'giant number'), (b'V' + b'x' * 9000, 'without an end'),
    (b'\x8d' + b'\xff' * 8 + b'.', 'ends too early'),  # BINUNICODE8
    (b'\x8e' + b'\xff' * 7 + b'\x7f.', 'ends too early'),  # BINBYTES8
    (b'X\xff\xff\xff\xffabc.', 'ends too early'), (b'T\xff\xff\xff\xffabc.', 'ends too early'),
    (b'X\x02\x00\x00\x00\xff\xfe.', 'damaged'), (b'\x8f(K\x01\x90.', 'neither'),
    (_LIST + b')R(K\x01\x90.', 'no set'), (b'c__builtin__\nset\nK\x01\x85R(K\x01\x90.', 'no set'),
])
def test_refuses_operations(put, code, message):
  with pytest.raises(UserError, match=message):
    read_networks(put(b'\x80\x04' + code))


def test_source_code_is_never_run(put, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  source = "open('executed', 'w').write('ran')\n" * 1000  # long ones stay in the file
  got = read_networks(put(official(source=source)))
  assert_same(got['G'].state_dict, arrays_of(1))
  assert [path.name for path in tmp_path.iterdir()] == ['checkpoint.bin']


@pytest.mark.parametrize('pack', [archive, stream])
@pytest.mark.parametrize('size, stride, offset', [
    ((5,), (1,), 0), ((2, 2), (3, 1), 0), ((4,), (1,), 1), ((1,), (1,), 1 << 70),
    ((2,), (1 << 70,), 0), ((0, 1 << 70), (1, 1), 0), ((1 << 62,), (0,), 0),
    ((100_000, 100_000), (0, 0), 0), ((2,), (-1,), 1), ((-2,), (1,), 0), ((2,), (1, 1), 0),
    ((1,) * 40, (1,) * 40, 0), ((2.0,), (1,), 0), (('2',), (1,), 0), ((2,), (1,), -1),
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


@pytest.mark.parametrize('wrap, message', [
    (b'\x85', 'neither'), (b'q\x01(h\x01l', 'neither'), (b'q\x01(K\x01h\x01d', 'entry 1'),
    (b'q\x01h\x00h\x01\x85R', 'damaged dict'), (b'q\x01h\x00)Rh\x01b', 'without tensors')])
def test_deep_nesting_does_not_overflow(put, wrap, message):
  start = b'\x80\x04ccollections\nOrderedDict\nq\x00K\x01'
  with pytest.raises(UserError, match=message):
    read_networks(put(start + wrap * 300_000 + b'.'))


def test_too_many_operations(put):
  with pytest.raises(UserError, match='more than 2000000 operations'):
    read_networks(put(b'\x80\x04' + b'N' * 2_000_001 + b'.'))


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
