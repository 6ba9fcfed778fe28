"""Classical inpainting methods by name, from the libraries that have them.

- telea: the fast marching method (Telea, "An image inpainting technique based on the fast marching
  method", 2004).
- navier_stokes: isophotes as the streamlines of a flow (Bertalmio, Bertozzi and Sapiro,
  "Navier-Stokes, fluid dynamics, and image and video inpainting", CVPR 2001).
- biharmonic: the biharmonic equation (Damelin and Hoang, "On surface completion and image
  inpainting by biharmonic functions: numerical aspects", 2018).
- shiftmap: copies shifted by the most frequent offsets of similar patches (He and Sun,
  "Statistics of patch offsets for image completion", ECCV 2012).
- fsr: frequency selective reconstruction, the fast variant (Seiler et al., "Resampling images to a
  regular grid from a non-regular subset of pixel positions using frequency selective
  reconstruction", IEEE TIP 2015).
- patchmatch: copies of the most similar patches (Barnes et al., "PatchMatch", SIGGRAPH 2009; Wexler
  et al., "Space-time completion of video", 2007).

All of them but `shiftmap` give equal results for equal inputs: OpenCV's depends on the thread that
it runs in and on what ran there before.
"""

from collections.abc import Callable, Mapping
import functools
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np

from input_pipeline.ahead import in_order
from mat_jax.errors import UserError

# (uint8 [H, W, 3] RGB, bool [H, W], True in the hole) -> uint8 [H, W, 3].
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]

_RADIUS = 3  # pixels around one that `telea` and `navier_stokes` look at
_PATCH_RADIUS = 3  # of `patchmatch`, as in its library's examples
_GRAY = np.uint8(128)


class _Method(NamedTuple):
  """A method.

  Attributes:
    make: imports the library and returns the function; ImportError if it lacks.
    remedy: what to do about that.
  """

  make: Callable[[], Fill]
  remedy: str


def load(names: str, field: str) -> dict[str, Fill]:
  """The methods named; what they leave of kept pixels is put back.

  Args:
    names: names of methods joined by '+', '' for none.
    field: the configuration field or flag they come from, for messages.

  Returns:
    Name -> function. It sees nothing of what the hole hides, and gives gray where nothing is kept.

  Raises:
    UserError: an unknown name, or a library that is missing.
  """
  return {name: functools.partial(_fill, _make(name, field)) for name in names_of(names)}


def names_of(names: str) -> list[str]:
  """The names joined by '+', each once."""
  return list(dict.fromkeys(name for name in names.split('+') if name))


def _make(name: str, field: str) -> Fill:
  if name not in _METHODS:
    raise UserError(f'{field} names {name!r}, which is no classical method; choose of '
                    f"{', '.join(_METHODS)}, several joined by '+'")
  try:
    return _METHODS[name].make()
  except ImportError as error:
    raise UserError(f'{field} names {name!r}, whose library is missing ({error}); '
                    f'{_METHODS[name].remedy}') from error


def fill_batch(methods: Mapping[str, Fill], images: np.ndarray,
               holes: np.ndarray) -> dict[str, np.ndarray]:
  """Fills the holes of several pictures with several methods, on all processor cores.

  Args:
    methods: of `load`.
    images: uint8 [n, H, W, 3] in [0, 255], RGB.
    holes: bool [n, H, W], True in the hole.

  Returns:
    {name: uint8 [n, H, W, 3]}.
  """
  tasks = [(fill, image, hole) for fill in methods.values()
           for image, hole in zip(images, holes, strict=True)]
  filled = np.array(list(in_order(lambda task: task[0](*task[1:]), tasks)), np.uint8)
  return dict(zip(methods, filled.reshape(len(methods), *images.shape), strict=True))


def _fill(method: Fill, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
  """Applies a method, which need neither hide the hole itself nor give back kept pixels."""
  kept = ~hole
  if kept.all():
    return image.copy()
  if not kept.any():
    return np.full_like(image, _GRAY)
  # What a method averages over when it shrinks the picture should look like the picture.
  mean = np.rint(image[kept].mean(0)).astype(np.uint8)
  hidden = np.where(hole[..., None], mean, image)
  return np.where(hole[..., None], method(hidden, hole), image)


def _telea() -> Fill:
  return lambda image, hole: cv2.inpaint(image, _as_mask(hole), _RADIUS, cv2.INPAINT_TELEA)


def _navier_stokes() -> Fill:
  return lambda image, hole: cv2.inpaint(image, _as_mask(hole), _RADIUS, cv2.INPAINT_NS)


def _as_mask(chosen: np.ndarray) -> np.ndarray:
  """uint8 [H, W], 255 where `chosen` is True."""
  return chosen.astype(np.uint8) * np.uint8(255)


def _biharmonic() -> Fill:
  from skimage import restoration

  def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    result = restoration.inpaint_biharmonic(image, hole, channel_axis=-1)  # in [0, 1]
    return np.rint(np.clip(result, 0, 1) * 255).astype(np.uint8)

  return fill


def _shiftmap() -> Fill:
  xphoto = _xphoto()

  def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
    filled = np.zeros_like(lab)
    xphoto.inpaint(lab, _as_mask(~hole), filled, xphoto.INPAINT_SHIFTMAP)
    # Some pixels it leaves empty (opencv_contrib, issue 1200): 0 in all channels, which as Lab is
    # no colour of a picture, black being (0, 128, 128).
    empty = hole & (filled == 0).all(-1)
    result = cv2.cvtColor(filled, cv2.COLOR_Lab2RGB)
    result[~hole] = image[~hole]
    return cv2.inpaint(result, _as_mask(empty), _RADIUS, cv2.INPAINT_TELEA)

  return fill


def _fsr() -> Fill:
  xphoto = _xphoto()

  def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    filled = np.zeros_like(bgr)
    xphoto.inpaint(bgr, _as_mask(~hole), filled, xphoto.INPAINT_FSR_FAST)
    return cv2.cvtColor(filled, cv2.COLOR_BGR2RGB)

  return fill


def _xphoto() -> ModuleType:
  if not hasattr(cv2, 'xphoto'):
    raise ImportError('this OpenCV has no module xphoto')
  return cv2.xphoto


def _patchmatch() -> Fill:
  import patchmatch

  if not patchmatch.patchmatch_available:
    raise ImportError('it was installed without its compiled part')
  return lambda image, hole: patchmatch.inpaint(image, hole, patch_size=_PATCH_RADIUS)


_IN_OPENCV = _Method(_telea, 'pip install opencv-python-headless')
_CONTRIB = ('pip uninstall opencv-python-headless, then pip install '
            'opencv-contrib-python-headless, which has all of it and xphoto')
_METHODS = {
    'telea': _IN_OPENCV,
    'navier_stokes': _IN_OPENCV._replace(make=_navier_stokes),
    'biharmonic': _Method(_biharmonic, 'pip install scikit-image'),
    'shiftmap': _Method(_shiftmap, _CONTRIB),
    'fsr': _Method(_fsr, _CONTRIB),
    'patchmatch': _Method(_patchmatch, 'pip install pypatchmatch'),
}
