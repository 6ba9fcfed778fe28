import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from eval.classical import methods
from mat_jax.errors import UserError

SIDE = 48
_NEEDS_XPHOTO = pytest.mark.skipif(not hasattr(cv2, 'xphoto'), reason='needs OpenCV with xphoto')
# Those that give equal results for equal inputs.
REPEATABLE = ['telea', 'navier_stokes', 'biharmonic', 'patchmatch',
              pytest.param('fsr', marks=_NEEDS_XPHOTO)]
METHODS = [*REPEATABLE, pytest.param('shiftmap', marks=_NEEDS_XPHOTO)]


def load(name):
  return methods.load(name, 'eval.classical')[name]


def picture(seed=0):
  """A smooth picture of many colours."""
  noise = np.random.default_rng(seed).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
  return cv2.GaussianBlur(noise, (0, 0), 3)


def hole(top=14, bottom=30, left=10, right=34):
  found = np.zeros((SIDE, SIDE), bool)
  found[top:bottom, left:right] = True
  return found


@pytest.mark.parametrize('name', METHODS)
def test_kept_pixels_stay(name):
  image = picture()
  result = load(name)(image, hole())
  assert (result.dtype, result.shape) == (np.uint8, image.shape)
  np.testing.assert_array_equal(result[~hole()], image[~hole()])
  assert (result != image)[hole()].any(), 'it cannot know the hole'


@pytest.mark.parametrize('name', REPEATABLE)
def test_what_the_hole_hides_does_not_matter(name):
  image = picture()
  other = np.where(hole()[..., None], picture(1), image)
  np.testing.assert_array_equal(load(name)(other, hole()), load(name)(image, hole()))


@pytest.mark.parametrize('name', METHODS)
def test_a_constant_picture_stays_constant(name):
  image = np.broadcast_to(np.array([200, 90, 30], np.uint8), (SIDE, SIDE, 3)).copy()
  result = load(name)(image, hole())
  # OpenCV's Telea rounds up where it should round to nearest.
  assert np.abs(result.astype(int) - image).max() <= (4 if name == 'telea' else 2)


@pytest.mark.parametrize('name', METHODS)
def test_nothing_and_everything_is_hole(name):
  image, everything = picture(), np.ones((SIDE, SIDE), bool)
  np.testing.assert_array_equal(load(name)(image, ~everything), image)
  assert (load(name)(image, everything) == 128).all()


@pytest.mark.parametrize('name', METHODS)
def test_a_single_kept_pixel_is_enough(name):
  image, almost_all = picture(), np.ones((SIDE, SIDE), bool)
  almost_all[20, 20] = False
  result = load(name)(image, almost_all)
  assert np.abs(result.astype(int) - image[20, 20].astype(int)).max() <= 16


@pytest.mark.parametrize('name', ['telea', 'navier_stokes', 'biharmonic'])
def test_channels_do_not_mix(name):
  image = picture()
  np.testing.assert_array_equal(
      load(name)(image[..., ::-1], hole()), load(name)(image, hole())[..., ::-1])


def test_biharmonic_goes_on_with_a_slope():
  ramp = np.repeat(np.arange(SIDE, dtype=np.uint8)[:, None, None] * np.uint8(4), SIDE, 1)
  ramp = np.repeat(ramp, 3, 2)
  assert np.abs(load('biharmonic')(ramp, hole()).astype(int) - ramp).max() <= 1


def test_patchmatch_copies_a_pattern():
  stripes = np.where(np.arange(SIDE) % 8 < 4, 40, 220).astype(np.uint8)
  image = np.broadcast_to(stripes[None, :, None], (SIDE, SIDE, 3)).copy()
  result = load('patchmatch')(image, hole())
  assert np.mean(np.abs(result.astype(int) - image)[hole()] < 20) > 0.9


@pytest.mark.parametrize('name', REPEATABLE)
def test_a_batch_is_what_its_pictures_are(name):
  images = np.stack([picture(i) for i in range(4)])
  holes = np.stack([hole(), hole(0, 9), hole(left=40, right=48), hole(30, 40)])
  chosen = methods.load(name, 'x')
  found = methods.fill_batch(chosen, images, holes)
  np.testing.assert_array_equal(found[name], [
      chosen[name](image, one) for image, one in zip(images, holes, strict=True)])


def test_a_batch_has_every_method():
  images, holes = np.stack([picture(), picture(1)]), np.stack([hole(), hole(0, 9)])
  chosen = methods.load('navier_stokes+telea', 'x')
  found = methods.fill_batch(chosen, images, holes)
  assert list(found) == ['navier_stokes', 'telea']
  np.testing.assert_array_equal(found['telea'][1], chosen['telea'](images[1], holes[1]))
  assert methods.fill_batch({}, images, holes) == {}


def test_an_unknown_name_is_told():
  assert methods.load('', 'x') == {}
  assert list(methods.load('telea++navier_stokes+telea', 'x')) == ['telea', 'navier_stokes']
  with pytest.raises(UserError, match="--methods names 'lama', .*choose of telea, .*'\\+'"):
    methods.load('telea+lama', '--methods')


@pytest.mark.parametrize('name,module,remedy', [
    ('biharmonic', 'skimage', 'pip install scikit-image'),
    ('patchmatch', 'patchmatch', 'pip install pypatchmatch')])
def test_a_missing_library_is_told(name, module, remedy, monkeypatch):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(UserError, match=f"names '{name}', whose library is missing .*; {remedy}"):
    methods.load(name, 'eval.classical')


def test_patchmatch_without_its_compiled_part_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, 'patchmatch', SimpleNamespace(patchmatch_available=False))
  with pytest.raises(UserError, match='without its compiled part'):
    methods.load('patchmatch', 'eval.classical')


@pytest.mark.parametrize('name', ['shiftmap', 'fsr'])
def test_opencv_without_xphoto_is_told(name, monkeypatch):
  monkeypatch.delattr(cv2, 'xphoto', raising=False)
  with pytest.raises(UserError, match='no module xphoto.*opencv-contrib-python-headless'):
    methods.load(name, 'eval.classical')


def test_what_shiftmap_leaves_empty_is_filled(monkeypatch):
  def leave_empty(source, mask, target, algorithm):
    target[mask > 0] = source[mask > 0]

  monkeypatch.setattr(cv2, 'xphoto', SimpleNamespace(inpaint=leave_empty, INPAINT_SHIFTMAP=0),
                      raising=False)
  image = picture()
  np.testing.assert_array_equal(load('shiftmap')(image, hole()), load('telea')(image, hole()))
