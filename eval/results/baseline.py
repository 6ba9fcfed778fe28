"""Another evaluation to compare with, of the same images and masks."""

from collections.abc import Iterable, Mapping
import io
import json
import os
from typing import Any

import numpy as np
from PIL import Image

from eval.results import pairs, picture_paths, record
from eval.results.pairs import Pairs
from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets

# The setting of the systems beside MAT, of which a baseline needs none.
CLASSICAL = 'classical'


def load(workdir: str, settings: Mapping[str, Any]) -> Pairs:
  """Reads the metrics of the pairs in another workdir's evaluation.

  Args:
    workdir: has been evaluated with --mode=eval.
    settings: those of the evaluation that it is to be compared with; see
      `evaluator.settings_of`.

  Raises:
    UserError: there is none, or it differs in a setting that decides the numbers.
  """
  folder = os.path.join(workdir, record.FOLDER)
  check_settings(record.read_last(folder).settings, settings, workdir)
  return pairs.read_csv(os.path.join(folder, pairs.FILE))


def pictures(workdir: str, mask_set: str, image_indices: Iterable[int]) -> np.ndarray | None:
  """The baseline's completions of images with their first mask.

  Args:
    workdir: has been evaluated with --mode=eval.
    mask_set: 'large' or 'small'.
    image_indices: of the images.

  Returns:
    uint8 [n, H, W, 3]; None if one of them was not kept (`eval.save_pictures`).
  """
  folder = os.path.join(workdir, record.FOLDER, picture_paths.FOLDER)
  paths = [picture_paths.result_path(folder, mask_set, index, 0) for index in image_indices]
  try:
    return np.stack([np.asarray(Image.open(io.BytesIO(buckets.read_file(path))).convert('RGB'))
                     for path in paths])
  except (OSError, ValueError):
    return None


def check_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any], workdir: str) -> None:
  """Raises UserError at the first setting of MAT's numbers in which two evaluations differ."""
  for name in sorted({*theirs, *ours} - {CLASSICAL}):
    # As JSON, in which a tuple is a list.
    found, wanted = (json.dumps(side.get(name)) for side in (theirs, ours))
    if found != wanted:
      raise UserError(f'the evaluation in {workdir} has {name} {found}, this one {wanted}; '
                      'evaluate both alike')
