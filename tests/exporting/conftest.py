"""One exported program for all tests here: exporting takes seconds."""

import datetime

import pytest

from mat_jax.exporting import program
from tests.support import small_generator

JAXLIB_RELEASED = datetime.date(2026, 8, 31)


@pytest.fixture(scope='session')
def exported(tmp_path_factory) -> str:
  """The folder of a program of `small_generator` for all platforms; not to be changed."""
  folder = str(tmp_path_factory.mktemp('exported') / 'program')
  program.export_checkpoint(
      small_generator.checkpoint(), folder, jaxlib_released=JAXLIB_RELEASED)
  return folder
