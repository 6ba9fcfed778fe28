import numpy as np
import pytest

from mat_jax.errors import UserError
from mat_jax.runtime import mask_values

_SHARES = np.array([[0, 0.5, 0.999], [1, 1, 0]])  # of white


@pytest.mark.parametrize('values', [
    _SHARES, _SHARES.astype(np.float32), (255 * _SHARES).astype(np.uint8),
    (65535 * _SHARES).astype(np.uint16), (65535 * _SHARES).astype('>u2')])
def test_what_is_less_than_white_is_hole(values):
  keep, grey = mask_values.read_mask(values)
  assert keep.dtype == bool and keep.shape == (2, 3, 1)
  np.testing.assert_array_equal(keep[..., 0], [[0, 0, 0], [1, 1, 0]])
  assert grey == 2


@pytest.mark.parametrize('dtype', [bool, np.uint8, np.uint16, np.int64, np.float16])
def test_zeros_and_ones_of_any_type(dtype):
  values = np.array([[0, 1], [1, 1]], dtype)
  for array in (values, values[..., None], np.repeat(values[..., None], 3, -1)):
    keep, grey = mask_values.read_mask(array)
    np.testing.assert_array_equal(keep[..., 0], values > 0)
    assert grey == 0
  assert not mask_values.read_mask(np.zeros((2, 2), dtype)).keep.any()
  assert mask_values.read_mask(np.ones((2, 2), dtype)).keep.all()


def test_a_pixel_is_kept_if_all_its_channels_are():
  keep, grey = mask_values.read_mask(np.array([[[255, 255, 255], [255, 0, 0], [0, 0, 0]]], np.uint8))
  assert keep[0, :, 0].tolist() == [True, False, False] and grey == 1


@pytest.mark.parametrize('values,message', [
    (np.array([[0.0, 255.0]]), 'float64 with values from 0.0 to 255.0; give'),
    (np.array([[0, 255]]), 'int64 with values from 0 to 255'),
    (np.array([[-1, 1]], np.int8), 'from -1 to 1'),
    (np.array([[0.0, np.nan]]), 'nan'),
    (np.array([['a']]), 'the mask is <U1; give bool')])
def test_masks_without_a_known_white_are_refused(values, message):
  with pytest.raises(UserError, match=message):
    mask_values.read_mask(values)


def test_the_notice_counts():
  mask = mask_values.read_mask(np.arange(256, dtype=np.uint8).reshape(16, 16))
  assert mask.notice('a.png').startswith('a.png: 254 of 256 pixels are neither black nor white')
  assert mask_values.Mask(mask.keep, 0).notice('a.png') == ''
