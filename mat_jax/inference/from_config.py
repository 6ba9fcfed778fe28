"""Inpainting of picture files as a config says: `--mode=inpaint`."""

import os

from absl import logging
import jax
import ml_collections

from mat_jax.checkpoints.reader import resolve_model_config
from mat_jax.errors import UserError
from mat_jax.inference import image_files
from mat_jax.inference.inpainter import Inpainter, read_checkpoint
from mat_jax.inference.matching import match_files
from mat_jax.runtime import cluster
from mat_jax.runtime.storage import buckets


def inpaint(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Fills the holes of picture files.

  Of several processes each checks all files, and fills every n-th picture.

  Args:
    config: see `configs/base.py`; uses `inpaint` and checks `model`.
    workdir: holds the checkpoint unless `config.inpaint.checkpoint` names one.

  Raises:
    UserError: before anything is written: missing or unmatched files, headers that cannot be
      read, results that exist; no checkpoint, or one of another architecture. At the end, when
      all other images are written: files whose pixels cannot be read.
  """
  fields = config.inpaint
  options, files = image_files.options_from(fields)
  for field in ('images', 'masks'):
    if not fields[field] and (field, files.hole) != ('masks', 'alpha'):
      raise UserError(f'inpaint.{field} is empty; set --config.inpaint.{field} to a file or folder')
  pairs = match_files(fields.images, None if files.hole == 'alpha' else fields.masks)
  output = fields.output or os.path.join(workdir, 'inpaint')
  if buckets.is_address(output):
    raise UserError(f'pictures are not written into buckets such as {output}; set '
                    '--config.inpaint.output to a folder')
  tasks = image_files.tasks_of(pairs, output, options, files)
  checkpoint = read_checkpoint(fields.checkpoint or workdir)
  model = resolve_model_config(config.model, checkpoint.model, checkpoint.path)
  worker = image_files.FileInpainter(
      Inpainter(checkpoint, model, config.implementations), options, files)
  own = tasks[jax.process_index()::jax.process_count()]
  failures = worker.run(own)
  cluster.barrier('inpaint its images')
  logging.info('Inpainted %d images into %s.', len(own) - len(failures), output)
  error = image_files.describe_failures(failures, len(own))
  if error:
    raise error
