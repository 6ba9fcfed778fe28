"""The report as one HTML page that needs no other file, and no network."""

import base64
from collections.abc import Mapping
import io
import os
from typing import Any

import jinja2
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

_TEMPLATES = os.path.join(os.path.dirname(__file__), 'templates')
# Sides in pixels to which pictures are shrunk: of the comparisons, and of the smaller cases.
LARGE, SMALL = 384, 256
_LOSSLESS_SIDE = 128
_JPEG_QUALITY = 90
DPI = 200  # about twice what a screen shows


def render(values: Mapping[str, Any]) -> bytes:
  """Fills the page's template; all text in it is escaped.

  Args:
    values: what `templates/report.html` names.
  """
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
      lstrip_blocks=True, undefined=jinja2.StrictUndefined)
  environment.filters['picture'] = picture_uri
  return environment.get_template('report.html').render(values).encode()


def figure_png(figure: Figure) -> bytes:
  """A figure as a PNG file."""
  buffer = io.BytesIO()
  FigureCanvasAgg(figure)
  figure.savefig(buffer, format='png', dpi=DPI, facecolor='white')
  return buffer.getvalue()


def png_uri(data: bytes) -> str:
  """A PNG file as an address that holds it."""
  return _uri('png', data)


def picture_uri(pixels: np.ndarray, side: int) -> str:
  """A picture as an address that holds it.

  Args:
    pixels: uint8 [H, W, 3].
    side: to which larger ones are shrunk.

  Returns:
    'data:image/...': JPEG, or PNG where that is small too.
  """
  image = Image.fromarray(pixels)
  image.thumbnail((side, side), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  if max(image.size) <= _LOSSLESS_SIDE:
    image.save(buffer, format='PNG')
    return _uri('png', buffer.getvalue())
  # Full resolution of the colours: the pictures are to be judged.
  image.save(buffer, format='JPEG', quality=_JPEG_QUALITY, subsampling=0)
  return _uri('jpeg', buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
  return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
