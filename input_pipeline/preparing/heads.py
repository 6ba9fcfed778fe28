"""Finds the head of a figure that was cut out of its background."""

from typing import NamedTuple

import cv2
import numpy as np

# The search runs on the silhouette at this length of the long side, in pixels.
_SIDE = 100
_MIN_SHARE = 0.1  # of the picture, that a figure covers
# Radii of heads, as shares of the root of the figure's area.
_RADII = (0.12, 0.14, 0.16, 0.18, 0.2)
_MIN_RADIUS = 4  # pixels of the silhouette
_ELONGATION = 1.2  # height of a head over its width
# Score of a place: how full the ellipse is, less how full the ring around and above it is,
# less what lies far from the middle of the figure or far below its top; larger ones win ties.
_RING, _RING_END, _RING_BOTTOM = (1.15, 1.6), 1.9, 0.55  # in radii
_RING_WEIGHT, _ASIDE_WEIGHT, _BELOW_WEIGHT, _SIZE_WEIGHT = 0.8, 4, 0.6, 0.5
# Of a painting without transparency: where portraits have their heads, in short sides.
_USUAL_Y, _USUAL_RADIUS = 0.38, 0.2


class Head(NamedTuple):
  """Centre of a head and half of its width, in pixels."""
  x: float
  y: float
  radius: float


def find_head(alpha: np.ndarray) -> Head | None:
  """Finds the head of a figure by its silhouette: round, in the upper part, free on its sides.

  Args:
    alpha: uint8 [H, W], 255 where the picture is opaque.

  Returns:
    The head; where portraits usually have it, if nothing is transparent; None if there is too
    little to be a figure.
  """
  height, width = alpha.shape
  silhouette = _silhouette(alpha)
  if silhouette.mean() < _MIN_SHARE:
    return None
  if silhouette.all():
    short = min(height, width)
    return Head(width / 2, _USUAL_Y * short, _USUAL_RADIUS * short)
  size = float(np.sqrt(silhouette.sum()))
  place = _place_penalty(silhouette)
  found = []
  for share in _RADII:
    radius = max(share * size, _MIN_RADIUS)
    score = _fit(silhouette, radius) - place + _SIZE_WEIGHT * share
    y, x = np.unravel_index(score.argmax(), score.shape)
    found.append((score[y, x], x, y, radius))
  _, x, y, radius = max(found)
  scale = max(height, width) / _SIDE
  return Head((x + 0.5) * scale, (y + 0.5) * scale, radius * scale)


def _silhouette(alpha: np.ndarray) -> np.ndarray:
  """Shrinks an alpha channel to zeros and ones, float32."""
  height, width = alpha.shape
  scale = _SIDE / max(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  small = cv2.resize(alpha.astype(np.float32), size, interpolation=cv2.INTER_AREA)
  return (small > 127).astype(np.float32)


def _place_penalty(silhouette: np.ndarray) -> np.ndarray:
  """Penalty on a head's centre at each pixel."""
  height, width = silhouette.shape
  rows, columns = np.nonzero(silhouette)
  y, x = np.mgrid[:height, :width]
  aside = (x - columns.mean()) / width
  below = np.maximum(y - rows.min(), 0) / height
  return _ASIDE_WEIGHT * aside**2 + _BELOW_WEIGHT * below


def _fit(silhouette: np.ndarray, radius: float) -> np.ndarray:
  """Score of a head of a given radius at each pixel, at most 1."""
  margin = int(np.ceil(_RING_END * radius))
  y, x = np.mgrid[-margin:margin + 1, -margin:margin + 1]
  distance = np.hypot(x, y / _ELONGATION) / radius
  inside = (distance <= 1).astype(np.float32)
  ring = ((distance > _RING[0]) & (distance <= _RING[1]) & (y < _RING_BOTTOM * radius))
  kernel = inside / inside.sum() - _RING_WEIGHT * ring.astype(np.float32) / ring.sum()
  # The figure goes on below the picture, and nowhere else.
  padded = cv2.copyMakeBorder(silhouette, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
  padded[-margin:] = padded[-margin - 1]
  fit = cv2.filter2D(padded, -1, kernel, borderType=cv2.BORDER_CONSTANT)
  return fit[margin:-margin, margin:-margin]
