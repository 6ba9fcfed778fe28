"""Backgrounds for pictures with transparency: muted colours of a picture's own palette."""

import hashlib

import cv2
import numpy as np
from PIL import Image

_COLORS = 8  # of the palette
_OPAQUE = 200  # alpha of the pixels that count for it; edges hold colours of what was cut away
_SATURATION, _MAX_CHROMA = 0.45, 28  # share that is left of the colour, and its distance from grey
_LUMINANCE = (0.14, 0.48)  # the range that it is sampled from
_GRADIENT = 0.35  # how much lighter one end is, and how much darker the other one
_CLOUDS, _CLOUD_CELLS = 0.1, 4  # strength of the soft unevenness, and its cells a side
_WEIGHTS = np.array([0.299, 0.587, 0.114])  # of Rec. 601


def lay_on_muted(image: Image.Image, name: str) -> Image.Image:
  """Lays a picture on a background that suits it.

  A random colour of its palette is desaturated, set to a dark or medium tone and turned into a
  soft gradient. The name is the seed: the same picture always gets the same background.

  Args:
    image: of any mode with transparency, at its full size; resizing before would mix the
      colours of invisible pixels into the edges.
    name: of the picture.

  Returns:
    The image, mode RGB.
  """
  pixels = np.asarray(image.convert('RGBA'))
  alpha = pixels[..., 3:].astype(np.float32) / 255
  background = _muted(pixels, _generator(name))
  mixed = alpha * pixels[..., :3] + (1 - alpha) * background
  return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _generator(name: str) -> np.random.Generator:
  # Names of files need not be Unicode.
  digest = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()
  return np.random.default_rng(int.from_bytes(digest[:8], 'big'))


def _muted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Samples a background for RGBA pixels: float32 [H, W, 3] in [0, 255]."""
  color = _palette_color(pixels, rng)
  luminance = 255 * rng.uniform(*_LUMINANCE)
  grey = color @ _WEIGHTS
  chroma = _SATURATION * (color - grey) * luminance / max(grey, 1)
  # Of red and blue little luminance is left: at that of others they would glow.
  chroma *= min(1, _MAX_CHROMA / max(np.abs(chroma).max(), 1))
  color = luminance + chroma
  shade = _shade(pixels.shape[:2], rng)
  return np.clip(shade[..., None] * color, 0, 255).astype(np.float32)


def _palette_color(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Samples a colour of the opaque pixels, frequent ones more often: float64 [3]."""
  opaque = pixels[pixels[..., 3] >= _OPAQUE][:, :3]
  if not len(opaque):
    return np.full(3, 128.0)
  palette = Image.fromarray(opaque[None]).quantize(_COLORS, Image.Quantize.MEDIANCUT)
  found, colors = palette.getcolors(), palette.getpalette()
  assert found is not None and colors is not None  # `quantize` makes a palette.
  counts, indices = zip(*found, strict=True)
  index = rng.choice(indices, p=np.array(counts) / sum(counts))
  return np.array(colors[3 * index:3 * index + 3], np.float64)


def _shade(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
  """Samples a gradient with clouds: float32 [H, W] around 1."""
  height, width = size
  angle = rng.uniform(0, 2 * np.pi)
  y, x = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
  gradient = (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2)
  cells = rng.uniform(-1, 1, (_CLOUD_CELLS, _CLOUD_CELLS)).astype(np.float32)
  clouds = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
  return (1 + _GRADIENT * gradient + _CLOUDS * clouds).astype(np.float32)
