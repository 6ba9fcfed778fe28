import pytest

from mat_jax.commands import export, main
from mat_jax.errors import UserError
from mat_jax.exporting import loading


def test_a_model_is_exported_under_the_name_that_is_given(trained, tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(export, 'export_program', lambda *arguments: asked.append(arguments))
  output = str(tmp_path / 'program')
  export.run(main.parse(['mat-jax', 'export', trained[0], output]))
  assert asked == [(trained[0], output)]


def test_without_a_model_nothing_is_written(tmp_path):
  output = tmp_path / 'program'
  with pytest.raises(UserError, match='there is no checkpoint'):
    export.run(main.parse(['mat-jax', 'export', str(tmp_path / 'nothing'), str(output)]))
  assert not output.exists()
  with pytest.raises(UserError):
    loading.load_program(str(output))
