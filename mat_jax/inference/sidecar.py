"""What made a result, as JSON beside it and in its PNG file."""

import dataclasses
import json
import os
from typing import Any

import mat_jax
from mat_jax.inference.inpainter import Completions
from mat_jax.inference.options import InpaintOptions
from mat_jax.inference.variants import Variant
from mat_jax.runtime.storage import new_files

KEYWORD = 'mat-jax'  # of the PNG text chunk


def describe(completions: Completions, variant: Variant, options: InpaintOptions,
             source: dict[str, Any]) -> dict[str, Any]:
  """The record of one completion, as JSON values.

  Args:
    completions: of the picture.
    variant: the one to describe.
    options: how they were made.
    source: further entries: image, mask, model and its digest.
  """
  plan = completions.plan
  return {
      'version': mat_jax.__version__, **source, **dataclasses.asdict(variant),
      'options': dataclasses.asdict(options),
      'windows': [{'top': w.top, 'left': w.left, 'side': w.side, 'kind': w.kind,
                   'enlarged': round(w.enlarge, 3)} for w in plan.windows],
      'enlargements': [{'box': list(found.box), 'factor': round(found.factor, 3),
                        'tiles': found.tiles} for found in plan.enlargements],
      'notices': list(plan.notices)}


def path_of(result: str) -> str:
  """The sidecar's path, beside a result."""
  return os.path.splitext(result)[0] + '.json'


def to_json(record: dict[str, Any]) -> str:
  """The text of a record."""
  return json.dumps(record, indent=2) + '\n'


def write(path: str, record: dict[str, Any]) -> None:
  """Writes a record; UserError if it cannot be written."""
  with new_files.new_file(path) as file:
    file.write(to_json(record).encode())
