"""Small evaluated workdirs for the tests of the report."""

import functools
import json
import os
import pathlib

import numpy as np

from eval.metrics.distances import Distance
from eval.results import aggregates, pairs, picture_paths, record
from eval.results.record import Group, Record
from mat_jax.runtime.image_grid import write_png

IMAGES, MASKS, SIDE = 10, 2, 16
HOSTILE = '<script>alert("x")</script> & $a_{b}$'
METRICS = ('psnr', 'ssim', 'lpips_alex', 'psnr_hole')
SETTINGS = {'resolution': SIDE, 'masks': 'large+small', 'hole_range': [0.0, 1.0], 'seed': 0}
NOTE = 'There are too few images for <b>this</b>.'


def table(seed: int = 0, prefix: str = 'image') -> pairs.Pairs:
  """Random metrics of 10 images with 2 masks in 2 sets; one result is perfect."""
  rng = np.random.default_rng(seed)
  masks, image, mask = (x.ravel() for x in np.meshgrid(
      ['large', 'small'], np.arange(IMAGES), np.arange(MASKS), indexing='ij'))
  quality = rng.uniform(size=len(masks))
  metrics = {'MAT': {'psnr': 15 + 10 * quality + rng.uniform(size=len(masks)),
                     'ssim': 0.5 + 0.4 * quality, 'lpips_alex': 0.4 - 0.3 * quality,
                     'psnr_hole': 10 + 5 * quality},
             'mean colour': {name: rng.uniform(size=len(masks)) for name in METRICS}}
  metrics['MAT']['psnr'][3] = np.inf
  names = np.array([HOSTILE, *(f'{prefix}-{i}' for i in range(1, IMAGES))])
  ratio = np.where(np.arange(len(masks)) % 2, 0.65, 0.05) + 0.001 * np.arange(len(masks))
  return pairs.Pairs(masks, image, names[image], mask, ratio, metrics)


def distances() -> dict[str, dict[str, Distance]]:
  """One that can be measured, one near 0, and one that cannot be measured."""
  found = {'fid': Distance(61.25, None, None, 10, 20, 2048, note='Biased.'),
           'kid': Distance(0.0000021, 0.000001, 0.000003, 10, 20, 2048),
           'p_ids': Distance(None, None, None, 10, 20, 2048, note='Needs 2,100 pairs.'),
           'p_ids_vgg16': Distance(0.125, 0.1, 0.15, 10, 20, 512, 0.2345, 15, 0.13)}
  return {'MAT': found, 'mean colour': found}


@functools.cache
def groups(seed: int, prefix: str) -> dict[str, dict[str, Group]]:
  """The tables of an evaluation."""
  found, comparisons = table(seed, prefix), [('MAT', 'mean colour')]
  both = {'large': distances(), 'small': distances()}
  return {'mask_sets': aggregates.by_mask_set(found, comparisons, both),
          'bins': aggregates.by_hole_ratio(found, comparisons)}


def make(workdir: pathlib.Path, seed: int = 0, kimg: tuple[float, ...] = (100.0,),
         pictures: int = IMAGES, prefix: str = 'image', **changes) -> str:
  """Writes an evaluated workdir.

  Args:
    workdir: made.
    seed: of the metrics.
    kimg: moments of the evaluations.
    pictures: images of which there are pictures.
    prefix: of the images' names.
    **changes: fields of the records.

  Returns:
    The workdir.
  """
  folder = str(workdir / 'eval')
  os.makedirs(folder)
  found = table(seed, prefix)
  for moment in kimg:
    record.write(Record(**{
        'title': 'MAT, some run', 'step': int(8 * moment), 'kimg': moment, 'split': 'test',
        'masks_per_image': MASKS, 'unreadable': 1, 'settings': SETTINGS, 'notes': (NOTE,),
        **groups(seed, prefix), **changes}), folder)
  pairs.write_csv(found, os.path.join(folder, 'per_image.csv'))
  write_pictures(found, os.path.join(folder, 'pictures'), pictures)
  return str(workdir)


def write_pictures(found: pairs.Pairs, folder: str, images: int) -> None:
  for masks, image, mask in zip(found.masks, found.image_index, found.mask, strict=True):
    if image < images:
      keep = np.full((SIDE, SIDE), 255, np.uint8)
      keep[:, :SIDE // 2] = 0
      original = np.random.default_rng(image).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
      for path, picture in (
          (picture_paths.original_path(folder, image), original),
          (picture_paths.mask_path(folder, masks, image, mask), keep),
          (picture_paths.result_path(folder, masks, image, mask), 255 - original)):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_png(path, picture)


def write_stats(workdir: str) -> None:
  """What a training records: ticks with and without a validation, a torn last line."""
  rows = [{'step': 8, 'progress/kimg': 1.0, 'loss': 2.0},
          {'step': 16, 'progress/kimg': 2.0, 'validation/psnr': 17.0, 'validation/ssim': None},
          {'step': 24, 'progress/kimg': 3.0, 'validation/psnr': 18.0, 'validation/ssim': 0.5}]
  with open(os.path.join(workdir, 'stats.jsonl'), 'w', encoding='utf-8') as file:
    file.write(''.join(json.dumps(row) + '\n' for row in rows) + '{"step": 32, "prog')
