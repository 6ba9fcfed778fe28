"""Saved generators on the Hugging Face Hub, through `huggingface_hub.ModelHubMixin`.

The package is the extra `hub`; folders are saved and read without it (`convert.saved_models`).
"""

import os
import pathlib
import re
from typing import Any

from convert import model_card, saved_models
from mat_jax.checkpoints.reader import EmaCheckpoint
from mat_jax.errors import UserError

# Names of repositories on the Hub, with or without their owner.
_REPOSITORY = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')


def download(repository: str, **options: Any) -> EmaCheckpoint:
  """Reads a saved generator from the Hub, or from the copy of it in the cache.

  Args:
    repository: its name, as 'owner/name'.
    **options: of `ModelHubMixin.from_pretrained`: revision, token, cache_dir, force_download,
      local_files_only.

  Returns:
    The generator, its arrays on the first local device.

  Raises:
    UserError: the package is not installed, there is no such repository, it cannot be reached, or
      it holds no saved generator.
  """
  if not _REPOSITORY.fullmatch(repository):
    raise UserError(f'{repository!r:.200} is no folder, nor the name of a repository; give a folder '
                    'that save_pretrained wrote')
  model = _hub_model(repository)
  from huggingface_hub.errors import HfHubHTTPError

  try:
    return model.from_pretrained(repository, **options).checkpoint
  # AttributeError: of ModelHubMixin itself, for a config.json that is no object.
  except (HfHubHTTPError, OSError, ValueError, AttributeError) as error:
    words = (str(error).splitlines() or [''])[0]
    raise UserError(
        f'{repository} is no folder here and cannot be read from the Hugging Face Hub '
        f'({type(error).__name__}: {words:.120}); check the name, the network and hf auth login, '
        'or give a folder that save_pretrained wrote') from error


def push(checkpoint: EmaCheckpoint, repository: str, card: model_card.Card,
         **options: Any) -> str:
  """Saves a generator on the Hub.

  Args:
    checkpoint: see `mat_jax.checkpoints.reader.restore_ema`.
    repository: its name, as 'owner/name'; it is made if there is none.
    card: licence and description.
    **options: of `ModelHubMixin.push_to_hub`: private, token, branch, create_pr, commit_message.

  Returns:
    The address of the commit.

  Raises:
    UserError: the package is not installed, or the Hub refuses.
  """
  model = _hub_model(repository)()
  from huggingface_hub.errors import HfHubHTTPError

  model.checkpoint, model.card = checkpoint, card
  try:
    return str(model.push_to_hub(repository, **options))
  except (HfHubHTTPError, OSError, ValueError) as error:
    words = (str(error).splitlines() or [''])[0]
    raise UserError(f'{repository} cannot be written on the Hugging Face Hub '
                    f'({type(error).__name__}: {words:.120}); check the name, the network and hf '
                    'auth login') from error


def _hub_model(repository: str) -> Any:
  """The subclass of `ModelHubMixin`; UserError where the package is missing."""
  try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
  except ModuleNotFoundError as error:
    raise UserError(
        f'{repository} is no folder here, and the package that asks the Hugging Face Hub for it is '
        "not installed; pip install 'mat-jax[hub]', or give a folder that save_pretrained "
        'wrote') from error

  class HubModel(ModelHubMixin, library_name=model_card.LIBRARY, pipeline_tag=model_card.TASK,
                 tags=list(model_card.TAGS)):
    """A saved generator; its fields are set from outside, since the mixin copies arguments."""

    checkpoint: EmaCheckpoint
    card: model_card.Card

    def _save_pretrained(self, save_directory: pathlib.Path) -> None:
      saved_models.save_pretrained(self.checkpoint, str(save_directory), self.card)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None = None,
                         cache_dir: str | pathlib.Path | None = None, force_download: bool = False,
                         local_files_only: bool = False, token: str | bool | None = None,
                         **unused: Any) -> 'HubModel':
      paths = [hf_hub_download(
          model_id, name, revision=revision, cache_dir=cache_dir, force_download=force_download,
          local_files_only=local_files_only, token=token)
               for name in (saved_models.CONFIG, saved_models.WEIGHTS)]
      model = cls()
      model.checkpoint = saved_models.read_folder(os.path.dirname(paths[0]))
      return model

  return HubModel
