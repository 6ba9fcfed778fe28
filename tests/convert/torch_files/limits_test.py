"""What the readers just accept, and what they just refuse."""

import io
import os
import pickle
import re

import numpy as np
import pytest

from convert import architecture
from convert.torch_files import limits
from convert.torch_files.file_window import FormatError, Window
from convert.torch_files.safe_pickle import load
from convert.torch_files.torch_reader import read_networks
from mat_jax.errors import UserError
from tests.support.paths import ROOT
from tests.support.torch_files import (
  Made,
  archive,
  dumps,
  module,
  official_tensor,
  ordered,
  state_of,
  storage,
  stream,
  tensor,
)

_HALF_RANGE = 1 << (8 * limits.INTEGER - 1)


def read(code):
  """The value of a pickle."""
  return load(Window(io.BytesIO(code), 0, len(code)), ('collections.OrderedDict',))


def weight():
  return official_tensor(np.float32([1]))


def generator(state):
  return dumps({'G': module('Generator', state)})


@pytest.mark.parametrize('value', [
    *(sign * 2**side for side in (64, 128, 256, 512, 1024, 2048, limits.RESOLUTION)
      for sign in (1, -1)), _HALF_RANGE - 1, -_HALF_RANGE])
def test_integers(value):
  assert read(pickle.dumps(value, 2)) == value  # LONG1 or LONG4
  assert read(pickle.dumps(value, 0)) == value  # LONG
  assert read(b'I%d\n.' % value) == value


@pytest.mark.parametrize('value', [_HALF_RANGE, -_HALF_RANGE - 1, 1 << 13000])
def test_giant_integers(value):
  for code in (pickle.dumps(value, 2), pickle.dumps(value, 0), b'I%d\n.' % value):
    with pytest.raises(FormatError, match=r'giant number \(more than 1024 bytes\)'):
      read(code)


def test_lines():
  for size in (limits.LINE, limits.LINE + 1):
    for code, value in ((b'V' + b'x' * size + b'\n.', 'x' * size),
                        (b'I' + b'7'.zfill(size) + b'\n.', 7)):
      if size <= limits.LINE:
        assert read(code) == value
      else:
        with pytest.raises(FormatError, match='a line without an end in 4096 bytes'):
          read(code)


def test_operations(monkeypatch):
  monkeypatch.setattr(limits, 'OPERATIONS', 10)
  assert read(b'N' * 9 + b'.') is None
  with pytest.raises(FormatError, match='more than 10 operations'):
    read(b'N' * 10 + b'.')


@pytest.mark.parametrize('code', [b'X\x0a\x00\x00\x001234567890.', b'V1234567890\n.',
                                  b'\x8c\x04abcd0\x8c\x06abcdef.', b'Vabcd\nT\x06\x00\x00\x00abcdef.',
                                  b'F12345678e0\n.'])
def test_text(monkeypatch, code):
  monkeypatch.setattr(limits, 'TEXT', 10)
  read(code)
  monkeypatch.setattr(limits, 'TEXT', 9)
  with pytest.raises(FormatError, match='more than 9 bytes of text'):
    read(code)


def test_keys():
  for key in (limits.KEY - 1, 1 - limits.KEY):
    assert read(pickle.dumps({key: None}, 2)) == {key: None}
    assert read(b'Vx\np%d\n0g%d\n.' % (abs(key), abs(key))) == 'x'
  for key in (limits.KEY, -limits.KEY, 2**512):
    with pytest.raises(FormatError, match='odd key'):
      read(pickle.dumps({key: None}, 2))
  with pytest.raises(FormatError, match='giant number in its memo'):
    read(b'Vx\np%d\n.' % limits.KEY)


def test_pickle_of_an_archive(put, monkeypatch):
  tree = {'weight': tensor(storage('0', np.zeros(3, np.float32)), (3,))}
  path = put(archive(tree, {'0': np.zeros(3, np.float32)}))
  monkeypatch.setattr(limits, 'PICKLE', len(dumps(tree, 2)))
  read_networks(path)
  monkeypatch.setattr(limits, 'PICKLE', limits.PICKLE - 1)
  with pytest.raises(UserError, match="has an entry 'data.pkl' of more than "):
    read_networks(path)


@pytest.mark.parametrize('more', [0, 1])
def test_depth(put, more):
  modules, kwargs = module('Conv', state_of({'weight': weight()})), {}
  for _ in range(limits.DEPTH + more):
    modules = module('Conv', state_of(children={'a': modules}))
    kwargs = {'a': kwargs}
  for state, message in (({'_modules': ordered({'a': modules})}, 'contains itself'),
                         ({'_init_kwargs': kwargs}, 'endless constructor arguments')):
    deep = put(dumps({'G': modules} if '_modules' in state else {
        'G': module('Generator', state_of({'weight': weight()}) | state)}))
    if more:
      with pytest.raises(UserError, match=message):
        read_networks(deep)
    else:
      assert len(read_networks(deep)['G'].state_dict) == 1


def test_entries(put, monkeypatch):
  conv = state_of({'weight': weight(), 'bias': None}, {'filter': weight()},
                  _non_persistent_buffers_set=Made('builtins', 'set', (['filter'],)))
  path = put(generator(state_of(children={'a': module('Conv', conv), 'b': None})))
  monkeypatch.setattr(limits, 'ENTRIES', 8)  # two modules, two children, and conv's four
  assert list(read_networks(path)['G'].state_dict) == ['a.weight']
  monkeypatch.setattr(limits, 'ENTRIES', 7)
  with pytest.raises(UserError, match='far more modules than MAT'):
    read_networks(path)
  monkeypatch.setattr(limits, 'ENTRIES', 20)
  for count in (18, 19):  # beside the dict and the list
    path = put(generator(state_of({'weight': weight()}, _init_kwargs={'a': [0] * count})))
    if count == 18:
      assert read_networks(path)['G'].init_kwargs == {'a': [0] * count}
    else:
      with pytest.raises(UserError, match='endless constructor arguments'):
        read_networks(path)


def test_names(put):
  name = 'x' * limits.NAME
  assert list(read_networks(put(generator(state_of({name: weight()}))))['G'].state_dict) == [name]
  with pytest.raises(UserError, match='damaged _parameters'):
    read_networks(put(generator(state_of({name + 'x': weight()}))))


@pytest.mark.parametrize('pack', [archive, stream])
def test_tensors(put, pack):
  numbers = np.zeros(1, np.float32)

  def found(size, stride):
    tree = {'weight': tensor(storage('0', numbers), size, stride)}
    return read_networks(put(pack(tree, {'0': numbers})))['G_ema'].state_dict['weight'].shape

  most = limits.DIMENSIONS
  assert found((1,) * most, (1,) * most) == (1,) * most
  assert found((1,), (limits.SIZE - 1,)) == (1,)  # one number may have any stride
  for size, stride in (((1,) * (most + 1), (1,) * (most + 1)), ((1,), (limits.SIZE,))):
    with pytest.raises(UserError, match="damaged tensor 'weight'"):
      found(size, stride)


def test_repeated_numbers(put, monkeypatch):
  numbers = np.zeros(1, np.float32)
  path = put(archive({'weight': tensor(storage('0', numbers), (1000,), (0,))}, {'0': numbers}))
  size = os.path.getsize(path)
  for repeats, small in ((0, 4000), (-(-4000 // size), 0)):
    monkeypatch.setattr(limits, 'REPEATS', repeats)
    monkeypatch.setattr(limits, 'SMALL', small)
    assert read_networks(path)['G_ema'].state_dict['weight'].shape == (1000,)
  monkeypatch.setattr(limits, 'REPEATS', 0)
  monkeypatch.setattr(limits, 'SMALL', 3999)
  with pytest.raises(UserError, match='more numbers than it holds'):
    read_networks(path)


@pytest.mark.parametrize('kind', ['module', 'arguments'])
def test_giant_numbers_are_not_hashed(put, kind):
  """Numbers of one hash: a set of them would take time that grows with their square."""
  numbers = Made('builtins', 'set', ([i * (2**61 - 1) for i in range(3)],))
  state = state_of({'weight': weight()})
  if kind == 'module':
    read_networks(put(generator(state | {'_non_persistent_buffers_set': numbers})))
  else:
    with pytest.raises(UserError, match='constructor argument of a kind'):
      read_networks(put(generator(state | {'_init_kwargs': {'a': numbers}})))


def test_networks():
  names = {f'mapping.fc{i}.bias': np.zeros(512) for i in range(limits.MAPPING_LAYERS)}
  names['synthesis.enc.EncConv_Block_4096x4096.conv0.bias'] = np.zeros(64)
  module_ = architecture.generator_from(names)
  assert (module_.resolution, module_.mapping_layers) == (limits.RESOLUTION, 1000)
  names['mapping.fc1000.bias'] = np.zeros(512)
  with pytest.raises(UserError, match='1001 mapping layers, more than 1000'):
    architecture.generator_from(names)
  assert architecture.discriminator_from({'Dis.12.conv.bias': np.zeros(1)}).resolution == 4096
  with pytest.raises(UserError, match='resolution 8192, more than 4096'):
    architecture.discriminator_from({'Dis.13.conv.bias': np.zeros(1)})


def test_the_table_in_the_docs():
  folder = ROOT
  with open(os.path.join(folder, 'docs', 'converting.md'), encoding='utf-8') as file:
    rows = dict(re.findall(r'^\| [^|]*\(`([A-Z_]+)`\) \| ([^|]+) \|', file.read(), re.M))
  values = {name: value for name, value in vars(limits).items() if name.isupper()}
  assert rows.keys() == values.keys()
  for name, value in values.items():
    forms = (f'{value:,} ', f'{value >> 20} MiB ', f'2^{value.bit_length() - 1} ')
    assert (rows[name] + ' ').startswith(forms), name
