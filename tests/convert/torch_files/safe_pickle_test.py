"""What `convert.torch_files.safe_pickle` refuses, seen through `convert.torch_files.torch_reader`."""

import os
import pickle

import pytest

from convert.torch_files.torch_reader import read_networks
from mat_jax.errors import UserError
from tests.support.torch_files import (
    Made,
    archive,
    arrays_of,
    assert_same,
    dumps,
    module,
    official,
    state_of,
    stream,
    tensor,
)


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
    (b'L' + b'9' * 2500 + b'L\n.', 'giant number'), (b'\x8b\xff\xff\xff\x7f.', 'giant number'),
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
