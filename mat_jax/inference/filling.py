"""Fills the windows of a plan: batched on the device, blended on the host."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import itertools
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from mat_jax.inference import completion, traced, views
from mat_jax.inference.blending.blend import blend, grow
from mat_jax.inference.canvas import Canvas, inside
from mat_jax.inference.options import InpaintOptions
from mat_jax.inference.planning.windows import Plan, Window, window_seed
from mat_jax.inference.variants import Variant, slerp
from mat_jax.nn.generator import Generator
from mat_jax.ops.implementation import for_platform
from mat_jax.pictures.pictures import from_rgb, to_rgb

T = TypeVar('T')

# Windows of a batch on an accelerator; a CPU takes one after the other.
_BATCH = 8


class _Job(NamedTuple):
  """One window of one completion, in pixels of the picture.

  Attributes:
    canvas: of the completion.
    variant: its randomness.
    window: what the network sees.
    truth: float32 [S, S, 3] in [-1, 1].
    known: bool [S, S], in the picture and not hole.
    hole: bool [S, S], what to fill.
  """

  canvas: Canvas
  variant: Variant
  window: Window
  truth: np.ndarray
  known: np.ndarray
  hole: np.ndarray


class Filler:
  """Fills pictures with one generator."""

  def __init__(self, generator: Generator, variables: dict[str, Any]):
    """Takes the averaged generator and its params and buffers."""
    self._generator, self._variables = generator, variables
    implementation = generator.implementation or for_platform()
    self._batch = 1 if implementation.inference == 'image' else _BATCH
    self._program: Callable[..., jax.Array] | None = None

  def fill(self, canvases: Sequence[Canvas], hole: np.ndarray, plan: Plan,
           variants: Sequence[Variant], options: InpaintOptions,
           on_window: Callable[[], None]) -> None:
    """Fills all holes once for every variant.

    Args:
      canvases: a fresh one for every variant.
      hole: bool [H, W].
      plan: of these holes.
      variants: of the completions.
      options: how.
      on_window: called for every window of every completion.
    """
    unfilled = hole.copy()
    for wave in plan.waves:
      jobs = (_job(canvas, variant, window, unfilled)
              for window in wave for canvas, variant in zip(canvases, variants, strict=True))
      for part in _batches(jobs, self._batch):
        for job, output in zip(part, self._complete(part, options), strict=True):
          _write(job, output, options)
          on_window()
      for window in wave:
        box = window.hole.box
        unfilled[box.top:box.bottom, box.left:box.right] &= ~window.hole.pixels

  def _complete(self, jobs: list[_Job], options: InpaintOptions) -> np.ndarray:
    """What the network makes of each, float32 [n, R, R, 3]."""
    side = self._generator.resolution
    inputs = self._padded([_inputs(job, side, options.feather) for job in jobs])
    image, mask = (np.stack(arrays) for arrays in zip(*inputs, strict=True))
    z, keep_masks = self._randomness(self._padded(jobs))
    arguments = (self._variables, image, mask, z, keep_masks, np.float32(options.truncation_psi))
    if self._program is None:  # every batch has the same shapes
      self._program = traced.traced(
          functools.partial(_complete, self._generator), _identity(self._generator), arguments)
    result = self._program(*arguments)
    return np.asarray(jax.device_get(result))[:len(jobs)]

  def _padded(self, items: list[T]) -> list[T]:
    """Repeats the last: every batch has the same size, so that there is one program."""
    return items + items[-1:] * (self._batch - len(items))

  def _randomness(self, jobs: list[_Job]) -> tuple[np.ndarray, dict[str, jax.Array]]:
    """Latents [n, 512] and keep masks, which depend on the seeds and the places alone."""
    def seeds(of: Callable[[Variant], int]) -> np.ndarray:
      return np.array([window_seed(of(job.variant), job.window) for job in jobs], np.uint32)

    def sample(latent_seeds: np.ndarray) -> tuple[jax.Array, dict[str, jax.Array]]:
      side = self._generator.resolution
      return completion.sample_jitted(self._generator, latent_seeds, side, side, keep_seeds)

    keep_seeds = seeds(lambda variant: variant.keep_seed)
    z, keep_masks = sample(seeds(lambda variant: variant.latent_seed))
    if all(job.variant.towards is None for job in jobs):
      return np.asarray(z), keep_masks
    other, _ = sample(seeds(
        lambda variant: variant.latent_seed if variant.towards is None else variant.towards))
    shares = np.array([job.variant.share for job in jobs])
    return slerp(np.asarray(z), np.asarray(other), shares), keep_masks


def _complete(generator: Generator, variables: dict[str, Any], image: jax.Array, mask: jax.Array,
              z: jax.Array, keep_masks: dict[str, jax.Array],
              truncation_psi: jax.Array) -> jax.Array:
  return completion.complete_latents(
      generator, variables, image, mask, z, keep_masks, truncation_psi)[0]


def _identity(generator: Generator) -> tuple[Any, ...]:
  """What tells the programs of generators apart: all but the initializer of their weights."""
  implementation = generator.implementation or for_platform()
  chosen = {field.name: getattr(implementation, field.name)
            for field in dataclasses.fields(implementation) if field.name != 'normal'}
  return (generator.resolution, generator.label_dim, generator.mapping_layers, generator.width,
          generator.dtype, chosen)


def _batches(jobs: Iterator[_Job], size: int) -> Iterator[list[_Job]]:
  while part := list(itertools.islice(jobs, size)):
    yield part


def _job(canvas: Canvas, variant: Variant, window: Window, unfilled: np.ndarray) -> _Job:
  rows, columns = inside(window, unfilled.shape)
  known = np.zeros((window.side, window.side), bool)
  known[rows.start - window.top:rows.stop - window.top,
        columns.start - window.left:columns.stop - window.left] = ~unfilled[rows, columns]
  hole = window.hole_in_window()
  return _Job(canvas, variant, window, to_rgb(canvas.read(window)), known & ~hole, hole)


def _inputs(job: _Job, side: int, feather: int) -> tuple[np.ndarray, np.ndarray]:
  """Image [R, R, 3] and mask [R, R, 1]; what a feather changes is completed too."""
  known = job.known & ~grow(job.hole, feather)
  if not known.any():  # a feather would leave nothing to go by
    known = job.known
  return views.shrink_known(job.truth, known[..., None].astype(np.float32), side)


def _write(job: _Job, output: np.ndarray, options: InpaintOptions) -> None:
  """Blends the network's output into the canvas."""
  window = job.window
  is_final = window.kind != 'coarse'
  fill = blend(
      views.enlarge(output, window.side), job.truth, job.known, job.hole,
      options.seamless, options.grain and is_final,
      window_seed(job.variant.latent_seed, window), options.feather,
      window.enlarge, options.texture and is_final)
  changed = job.hole
  if options.feather:
    changed = grow(job.hole, options.feather) & (job.known | job.hole)
  rows, columns = _bounds(changed)
  job.canvas.write(window.top + rows.start, window.left + columns.start,
                   from_rgb(fill[rows, columns], job.canvas.pixels), changed[rows, columns])


def _bounds(area: np.ndarray) -> tuple[slice, slice]:
  """The rows and columns of the True values."""
  rows, columns = (np.flatnonzero(area.any(axis=axis)) for axis in (1, 0))
  return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
