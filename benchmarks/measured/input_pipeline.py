"""Times the training stream: decode, crop, flip and mask, from JPEG files.

  python -m benchmarks.measured.input_pipeline

makes its data from the sample portraits in a temporary folder. The last line is JSON:
images per second (higher is better) and CPU milliseconds per image from prepared shards and
from folders, the same without decoding and generating masks (the upper bound on a host of many
cores by Python's lock), milliseconds per mask, seconds to the first batch at the start and at
batch 10 million, and the memory before and after `--memory_images` images.
"""

import json
import os
import platform
import tempfile
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# ruff: noqa: E402
from absl import app, flags, logging
import numpy as np
from PIL import Image
import tensorflow as tf

from input_pipeline import masks, pipeline, prepare, stream
from input_pipeline.image_dataset import ImageDataset, open_dataset
from input_pipeline.mask_files import random_masks
from input_pipeline.preparing.preparation import Settings
from input_pipeline.wikiart_portraits import PortraitsConfig
from mat_jax.runtime import images

_SECONDS = flags.DEFINE_float('seconds', 10.0, 'Length of a measurement.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Images in a batch.')
_THREADS = flags.DEFINE_integer('threads', None, 'Images made at a time; all cores by default.')
_MEMORY_IMAGES = flags.DEFINE_integer(
    'memory_images', 100_000, 'Images to stream while memory is watched; 0 for none.')

_COUNT = 330  # images in a folder
_LATE = 10_000_000


def write_folder(folder: str, side: int) -> None:
  """Writes squares that all differ, JPEG of quality 90, from the sample portraits."""
  samples = open_dataset('samples')
  rng = np.random.default_rng(0)
  os.makedirs(folder)
  for i in range(_COUNT):
    image = samples.load(i % len(samples), side + 16)
    top, left = rng.integers(16, size=2)
    image = image[top:top + side, left:left + side]
    Image.fromarray(image).save(os.path.join(folder, f'{i:05}.jpg'), quality=90)


class _Decoded(ImageDataset):
  """Images that are all the same and decoded already."""

  def load(self, index: int, resolution: int, *options: object) -> np.ndarray:
    return np.zeros((resolution, resolution, 3), np.uint8)


def make_stream(portraits: ImageDataset, resolution: int, preset: str | None,
                start_index: int = 0) -> stream.Stream:
  """Opens the training stream, as a training run does; without a preset masks are blank."""
  draw = random_masks(resolution, preset) if preset else lambda requests, out: out.fill(1)
  return pipeline.training_batches(
      portraits, draw, resolution=resolution,
      batch_size=_BATCH_SIZE.value, seed=0, start_index=start_index,
      num_threads=_THREADS.value)


def measure_speed(portraits: ImageDataset, resolution: int, preset: str | None) -> dict[str, float]:
  """Measures the images a second of a stream that is under way."""
  batches = make_stream(portraits, resolution, preset)
  for _ in range(8):
    next(batches)
  count, start, cpu_start = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() - start < _SECONDS.value:
    count += len(next(batches)['image'])
  seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
  return {'images_per_second': round(count / seconds, 1),
          'cpu_milliseconds_per_image': round(1000 * cpu / count, 3)}


def measure_masks(resolution: int, preset: str) -> float:
  """Measures the milliseconds that a mask takes on one core."""
  out = np.empty((_BATCH_SIZE.value, resolution, resolution, 1), np.float32)
  start, count = time.perf_counter(), 0
  while time.perf_counter() - start < 0.2 * _SECONDS.value:
    masks.fill_random_masks(out, range(count, count + len(out)), preset)
    count += len(out)
  return round(1000 * (time.perf_counter() - start) / count, 4)


def measure_start(portraits: ImageDataset, start_index: int) -> float:
  """Measures the seconds to the first batch of a stream."""
  start = time.perf_counter()
  next(make_stream(portraits, 256, 'large', start_index))
  return round(time.perf_counter() - start, 3)


def measure_memory(portraits: ImageDataset, count: int) -> dict[str, float]:
  """Streams many images; returns the memory after a tenth of them and in the end, in MiB."""
  batches = make_stream(portraits, 256, 'large')
  steps = count // _BATCH_SIZE.value
  memory = []
  for step in range(steps):
    next(batches)
    if step >= steps // 10:
      memory.append(resident_mebibytes())
  return {'images': steps * _BATCH_SIZE.value, 'after_a_tenth': memory[0], 'in_the_end': memory[-1],
          'largest': max(memory)}


def resident_mebibytes() -> float:
  """Returns the memory of this process that is in use (Linux)."""
  with open('/proc/self/statm', encoding='ascii') as file:
    return round(int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20, 1)


def run(folder: str) -> dict[str, object]:
  """Makes the data in a folder and measures everything."""
  raw, stored = {}, {}
  for side in (300, 600):
    path = os.path.join(folder, f'jpeg{side}')
    write_folder(path, side)
    raw[side] = open_dataset(path)
  for resolution, side in ((256, 300), (512, 600)):
    config = PortraitsConfig(name=str(resolution) + 'px', settings=Settings(resolution))
    output = os.path.join(folder, f'shards{resolution}')
    stored[resolution] = open_dataset(prepare.prepare(raw[side].source.location, output, config))
  next(make_stream(stored[256], 256, 'large'))  # the first stream loads libraries
  results: dict[str, object] = {}
  if _MEMORY_IMAGES.value:
    results['memory_mebibytes'] = measure_memory(stored[256], _MEMORY_IMAGES.value)
  results |= {
      name: measure_speed(portraits, resolution, preset)
      for name, portraits, resolution, preset in (
          ('shards_256_large', stored[256], 256, 'large'),
          ('shards_256_small', stored[256], 256, 'small'),
          ('folder_300px_to_256_large', raw[300], 256, 'large'),
          ('shards_512_large', stored[512], 512, 'large'),
          ('folder_600px_to_512_large', raw[600], 512, 'large'),
          ('nothing_decoded_nor_drawn_256', _Decoded(raw[300].source, raw[300].positions), 256,
           None))}
  results['milliseconds_per_mask'] = {
      f'{resolution}_{preset}': measure_masks(resolution, preset)
      for resolution in (256, 512) for preset in masks.PRESETS}
  results['seconds_to_first_batch'] = {
      str(index): measure_start(stored[256], index) for index in (0, _LATE)}
  return results


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  pipeline.hide_accelerators()
  with tempfile.TemporaryDirectory() as folder:
    results = run(folder)
  print(json.dumps({
      'benchmark': 'input_pipeline', 'cores': os.cpu_count(), 'machine': platform.machine(),
      'python': platform.python_version(), 'tensorflow': tf.__version__,
      'batch_size': _BATCH_SIZE.value, 'resampling': images.RESAMPLING.name, **results}))


if __name__ == '__main__':
  app.run(main)
