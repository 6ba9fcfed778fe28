"""Of `benchmarks.pytorch.torch_programs`, without the programs."""

import sys

import numpy as np
import pytest

from benchmarks.pytorch import torch_programs
from benchmarks.reference import published
from mat_jax.errors import UserError

HOLE = np.array([[True, False], [True, True]])


def test_completions_are_compared_in_the_hole_alone():
  ours = np.float32([[[0.5], [0.1]], [[0.25], [1.0]]])
  theirs = np.float32([[[0.5], [0.9]], [[0.26], [1.5]]])  # what is beyond 1 is white
  assert torch_programs.compare(theirs, ours, HOLE) == {
      'levels': 2, 'inside': 0.667, 'difference': pytest.approx(0.01, abs=1e-6), 'reach': 1.0}
  levels = np.uint8([[[128], [0]], [[65], [255]]])
  assert torch_programs.compare(levels, ours, HOLE) == {'levels': 1, 'inside': 0.667}
  theirs[0, 0] = np.nan
  with pytest.raises(UserError, match='not finite'):
    torch_programs.compare(theirs, ours, HOLE)


def test_images_are_scaled_and_nothing_else(monkeypatch):
  names = ('synthesis.dec.toRGB.conv.weight', 'synthesis.first_stage.toRGB.bias',
           'synthesis.dec.toRGB.conv.affine.weight', 'synthesis.dec.conv0.bias')
  monkeypatch.setattr(published, 'state_dict', lambda network, resolution: {
      name: np.ones(2, np.float32) for name in names})
  found = torch_programs.known_weights()
  assert [float(found[name][0]) for name in names] == pytest.approx([0.02, 0.1, 1, 1])
  assert {array.dtype for array in found.values()} == {np.dtype('float32')}


def test_a_program_that_fails_is_named(capfd):
  with pytest.raises(UserError, match='--python'):
    torch_programs.run_program(None, {'program': 'nothing'})
  with pytest.raises(UserError, match='^nothing ended with exit code 1'):
    torch_programs.run_program(sys.executable, {'program': 'nothing'})
  assert 'Error' in capfd.readouterr().err
