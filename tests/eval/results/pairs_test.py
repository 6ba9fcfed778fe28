import dataclasses

import numpy as np
import pytest

from eval.results import pairs
from eval.results.pairs import Pairs
from mat_jax.errors import UserError


def table(images=('a', 'b'), masks='large', offset=0.0):
  """Two masks for every image, and metrics with all that may be in a column."""
  n = 2 * len(images)
  values = np.arange(n) + offset
  return Pairs(
      masks=np.full(n, masks), image_index=np.repeat(np.arange(len(images)), 2),
      image=np.repeat(images, 2), mask=np.tile([0, 1], len(images)),
      hole_ratio=np.linspace(0.1, 0.7, n),
      metrics={'MAT': {'psnr': np.where(values == 1, np.inf, values),
                       'psnr_hole': np.where(values == 2, np.nan, values)},
               'mean colour': {'psnr': -values}})


def assert_equal(a, b):
  for field in dataclasses.fields(Pairs)[:-1]:
    ours, theirs = getattr(a, field.name), getattr(b, field.name)
    if field.name == 'hole_ratio':
      np.testing.assert_allclose(ours, theirs, atol=1e-6)
    else:
      assert ours.tolist() == theirs.tolist()
  assert a.metrics.keys() == b.metrics.keys()
  for system, metrics in a.metrics.items():
    assert metrics.keys() == b.metrics[system].keys()
    for name, values in metrics.items():
      np.testing.assert_allclose(b.metrics[system][name], values, rtol=1e-8)


def test_csv_keeps_all(tmp_path):
  written = table(['with, comma', 'and "quotes"\nin two lines', 'ö'])
  path = str(tmp_path / 'per_image.csv')
  pairs.write_csv(written, path)
  assert_equal(written, pairs.read_csv(path))
  head, first, *_ = open(path, encoding='utf-8').read().splitlines()
  assert head == 'system,masks,image_index,image,mask,hole_ratio,psnr,psnr_hole'
  assert first.startswith('MAT,large,0,"with, comma",0,0.1')


def test_csv_mistakes(tmp_path):
  with pytest.raises(UserError, match='no per_image.csv.*--mode=eval'):
    pairs.read_csv(str(tmp_path / 'per_image.csv'))
  path = tmp_path / 'per_image.csv'
  for content in (b'', b'a,b\n1,2\n', b'\xff\xfe', b'system,masks,image_index,image,mask,'
                  b'hole_ratio,psnr\nMAT,large,0,a,0,0.1,many\n'):
    path.write_bytes(content)
    with pytest.raises(UserError, match='cannot be read.*evaluate again'):
      pairs.read_csv(str(path))


def test_systems_with_other_pairs_are_refused(tmp_path):
  path = tmp_path / 'per_image.csv'
  pairs.write_csv(table(), str(path))
  lines = path.read_text().splitlines()
  path.write_text('\n'.join(lines[:-1]) + '\n')
  with pytest.raises(UserError, match='mean colour has other pairs'):
    pairs.read_csv(str(path))


def test_join_and_where():
  both = pairs.join([table(), table(masks='small', offset=10)])
  assert len(both) == 8
  small = both.where(both.masks == 'small')
  assert_equal(small, table(masks='small', offset=10))


def test_match_finds_common_pairs_in_any_order():
  ours, theirs = table(['a', 'b', 'c']), table(['c', 'x', 'a'])
  i, j = pairs.match(ours, theirs)
  assert [ours.keys()[k] for k in i] == [theirs.keys()[k] for k in j]
  assert {ours.image[k] for k in i} == {'a', 'c'} and len(i) == 4
  assert not len(pairs.match(ours, table(masks='small'))[0])
