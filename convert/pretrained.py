"""Generators in the form that lasts, from a folder or from the Hugging Face Hub."""

import os
from typing import Any

from convert import hub, model_card, saved_models
from mat_jax.checkpoints.reader import EmaCheckpoint


def from_pretrained(source: str, **download: Any) -> EmaCheckpoint:
  """Reads a folder, or a repository of the Hugging Face Hub.

  Args:
    source: a folder that `save_pretrained` wrote, else the name of a repository.
    **download: for a repository: revision, token, cache_dir, force_download, local_files_only,
      as `huggingface_hub.hf_hub_download` takes them.

  Returns:
    The generator, its arrays on the first local device.

  Raises:
    UserError: there is neither, a file is missing or damaged, or they do not fit together.
  """
  if os.path.isdir(source):
    return saved_models.read_folder(source)
  return hub.download(source, **download)


def save_pretrained(checkpoint: EmaCheckpoint, folder: str, license: str, **card: Any) -> None:
  """Saves the averaged generator of a checkpoint in a folder, with a model card.

  Args:
    checkpoint: see `mat_jax.checkpoints.reader.restore_ema`.
    folder: to create; it may exist if it is empty.
    license: of the weights, as the Hugging Face Hub names it.
    **card: further fields of `convert.model_card.Card`.

  Raises:
    UserError: a model with labels, the folder is not empty or cannot be written, or the licence
      is none.
  """
  saved_models.save_pretrained(checkpoint, folder, model_card.Card(license, **card))
