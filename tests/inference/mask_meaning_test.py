import numpy as np
import pytest

from mat_jax.errors import UserError
from mat_jax.inference import mask_meaning
from mat_jax.pictures.pictures import Picture


def _mask(white_share_rows, channels=1, dtype=np.uint8):
  """Black, with the middle rows white."""
  values = np.zeros((20, 20, channels), dtype)
  values[10 - white_share_rows:10 + white_share_rows, 4:16] = np.iinfo(dtype).max
  return values


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 3])
def test_the_smaller_part_away_from_the_edge_is_the_hole(dtype, channels):
  white_hole = _mask(3, channels, dtype)
  black_hole = np.iinfo(dtype).max - white_hole
  for values, name in ((white_hole, 'white'), (black_hole, 'black')):
    found = mask_meaning.understand(Picture(values), 'auto')
    assert found.meaning.hole == name and 'guessed' in found.meaning.reason
    np.testing.assert_array_equal(~found.mask.keep[..., 0], white_hole[..., 0] > 0)


def test_a_large_hole_amid_a_kept_edge_is_found():
  values = _mask(9)
  values[1:19, 1:19] = 255
  assert mask_meaning.understand(Picture(values), 'auto').meaning.hole == 'white'


def test_what_is_asked_for_is_not_guessed():
  values = _mask(3)
  found = mask_meaning.understand(Picture(values), 'black')
  np.testing.assert_array_equal(found.mask.keep[..., 0], values[..., 0] > 0)
  with pytest.raises(UserError, match="choose 'black', 'white' or 'auto'"):
    mask_meaning.understand(Picture(values), 'alpha')
  with pytest.raises(UserError, match="--hole is 'red'"):
    mask_meaning.check('red')


@pytest.mark.parametrize('hole', ['black', 'white'])
def test_greys_are_hole_and_are_counted(hole):
  values = _mask(3)
  values[0, :5] = 128
  found = mask_meaning.understand(Picture(values), hole).mask
  assert found.grey == 5 and not found.keep[0, :5].any()


@pytest.mark.parametrize('colour,name', [(0, 'black'), (255, 'white')])
def test_what_is_transparent_is_kept(colour, name):
  values = np.zeros((20, 20, 4), np.uint8)
  values[5:9, 5:9] = (colour, colour, colour, 255)
  found = mask_meaning.understand(Picture(values), 'auto')
  assert found.meaning.hole == name
  np.testing.assert_array_equal(~found.mask.keep[..., 0], values[..., 3] > 0)
  assert found.mask.grey == 0
