import os

import pytest

from mat_jax import new_files
from mat_jax.errors import UserError


def names(folder):
  return sorted(os.listdir(folder))


def test_a_folder_replaces_the_old_one_when_it_is_complete(tmp_path):
  target = tmp_path / 'pictures'
  for content in ('a', 'b'):
    with new_files.replaced_directory(str(target)) as folder:
      open(os.path.join(folder, content), 'w').close()
      assert names(target) == ['a'] if content == 'b' else not target.exists()
    assert names(target) == [content] and names(tmp_path) == ['pictures']


def test_the_old_folder_stays_when_the_new_one_fails(tmp_path, monkeypatch):
  target = tmp_path / 'pictures'
  target.mkdir()
  (target / 'old').touch()
  with pytest.raises(RuntimeError), new_files.replaced_directory(str(target)) as folder:
    open(os.path.join(folder, 'new'), 'w').close()
    raise RuntimeError
  assert names(target) == ['old'] and names(tmp_path) == ['pictures']

  rename = os.rename

  def fail(source, destination):
    if '.partial-' in source:
      raise PermissionError(13, 'Permission denied')
    rename(source, destination)

  monkeypatch.setattr(os, 'rename', fail)
  with (pytest.raises(UserError, match='cannot be written: Permission denied'),
        new_files.replaced_directory(str(target))):
    pass
  assert names(target) == ['old'] and names(tmp_path) == ['pictures']
