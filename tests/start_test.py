import os
import shutil

import pytest

from mat_jax import start, train
from mat_jax.disk import UnreachableError
from tests import runs


def _files(workdir):
  """Path -> size of all files, and the links."""
  return {os.path.relpath(os.path.join(parent, name), workdir):
          os.lstat(os.path.join(parent, name)).st_size
          for parent, _, names in os.walk(workdir) for name in names if name != '.lock'}


@pytest.mark.parametrize('item', ['meta', 'training'])
def test_a_disk_that_does_not_answer_costs_no_checkpoint_and_no_records(trained, tmp_path, item):
  workdir = shutil.copytree(trained[0], tmp_path / 'run')
  largest = max((workdir / 'checkpoints' / '4' / item).rglob('*'), key=os.path.getsize)
  hidden = largest.rename(tmp_path / 'hidden')
  largest.symlink_to(largest)  # opening it is an error of the system, whoever asks
  before, rows = _files(workdir), runs.rows(workdir)
  with pytest.raises(UnreachableError, match='4/.*nothing has been changed'):
    train.train(trained[1], str(workdir))
  assert _files(workdir) == before
  largest.unlink()
  hidden.rename(largest)
  assert int(train.train(trained[1], str(workdir)).step) == 4
  assert runs.rows(workdir) == rows


def test_the_model_of_init_from_is_taken(trained, tmp_path):
  config = trained[1].copy_and_resolve_references()
  config.init_from = f'{trained[0]}/best'
  config.model.mapping_layers = None
  found = start.with_model_of(config, str(tmp_path / 'new'))
  assert found.model.mapping_layers == trained[1].model.mapping_layers
