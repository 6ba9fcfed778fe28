"""Pickles of NumPy arrays, among them some that try to run code."""

import os
import pathlib
import pickle

import numpy as np
import pytest

from convert.torch_files.array_pickle import read_array_pickle
from mat_jax.errors import UserError


def test_missing_file(tmp_path):
  path = str(tmp_path / 'absent.ckpt')
  with pytest.raises(UserError, match=path):
    read_array_pickle(path)


@pytest.mark.parametrize('protocol', (3, 4))
def test_array_pickle(tmp_path, protocol):
  rng = np.random.default_rng(0)
  tree = {'a': {'kernel': rng.normal(size=(2, 3)).astype(np.float32),
                'bias': np.arange(3, dtype='>i4')},
          'b': np.asfortranarray(rng.normal(size=(4, 3))), 'scalar': np.array(2, np.uint8)}
  path = tmp_path / 'tree.ckpt'
  path.write_bytes(pickle.dumps(tree, protocol=protocol))
  read = read_array_pickle(str(path))
  assert read.keys() == tree.keys()
  for expected, found in ((tree['a']['kernel'], read['a']['kernel']),
                          (tree['a']['bias'], read['a']['bias']),
                          (tree['b'], read['b']), (tree['scalar'], read['scalar'])):
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype.newbyteorder('=') and found.flags.writeable


class Runs:
  """Its pickle calls a function on reading."""

  def __init__(self, function, *args):
    self.reduced = (function, args)

  def __reduce__(self):
    return self.reduced


def test_malicious_pickle_runs_nothing(tmp_path):
  target = tmp_path / 'executed'
  path = tmp_path / 'evil.ckpt'
  attacks = {r'os\.system|posix\.system': Runs(os.system, f'touch {target}'),
             r'builtins\.exec': Runs(exec, f'open({str(target)!r}, "w")'),
             r'builtins\.getattr': Runs(pathlib.Path.touch, target)}
  for name, attack in attacks.items():
    path.write_bytes(pickle.dumps({'VGG16_0': attack}, protocol=3))
    with pytest.raises(UserError, match=name):
      read_array_pickle(str(path))
    assert not target.exists()
    # The same file does act on a reader that trusts it.
    pickle.loads(path.read_bytes())
    assert target.exists()
    target.unlink()


@pytest.mark.parametrize('tree', (
    {'a': np.array([{}, None], object)},
    {'a': np.array(['text'])},
    {'a': np.zeros(2, [('x', 'f4')])},
    {'a': [np.zeros(2)]},
    {'a': 1.0},
    [np.zeros(2)],
))
def test_only_dicts_of_numeric_arrays(tmp_path, tree):
  path = tmp_path / 'tree.ckpt'
  path.write_bytes(pickle.dumps(tree, protocol=3))
  with pytest.raises(UserError, match=str(path)):
    read_array_pickle(str(path))


def test_array_of_a_false_size(tmp_path):
  path = tmp_path / 'tree.ckpt'
  data = pickle.dumps({'a': np.zeros((5, 7), np.float32)}, protocol=3)
  assert data.count(b'K\x05K\x07') == 1
  path.write_bytes(data.replace(b'K\x05K\x07', b'K\x05K\xff'))
  with pytest.raises(UserError, match='another size'):
    read_array_pickle(str(path))


def test_array_of_many_dimensions(tmp_path):
  path = tmp_path / 'tree.ckpt'
  path.write_bytes(pickle.dumps({'a': np.zeros((1,) * 64)}, protocol=3))
  assert read_array_pickle(str(path))['a'].shape == (1,) * 64
  ones = b'K\x01' * 64
  data = path.read_bytes()
  assert data.count(ones) == 1
  path.write_bytes(data.replace(ones, b'K\x01' * 65))
  with pytest.raises(UserError, match='more than 64 dimensions'):
    read_array_pickle(str(path))


@pytest.mark.parametrize('length', (0, 1, 40, 150))
def test_truncated_pickle(tmp_path, length):
  path = tmp_path / 'tree.ckpt'
  path.write_bytes(pickle.dumps({'a': np.zeros(9, np.float32)}, protocol=3)[:length])
  with pytest.raises(UserError, match=str(path)):
    read_array_pickle(str(path))
