import importlib.util
import json
import subprocess
import sys

import pytest

from benchmarks.compiled import tpu_aot
from benchmarks.peaks import TPUS, Peak
from mat_jax.errors import UserError

_TEXT = '''ENTRY %main (a: f32[1,8,8,4], b: f32[3,3,4,4], c: bf16[1,8,8,4]) -> f32[1,8,8,4] {
  %a = f32[1,8,8,4]{3,2,1,0} parameter(0)
  %b = f32[3,3,4,4]{3,2,1,0} parameter(1)
  %c = bf16[1,8,8,4]{3,2,1,0} parameter(2)
  %d = bf16[3,3,4,4]{3,2,1,0} parameter(3)
  %conv.1 = f32[1,8,8,4]{3,2,1,0} convolution(%a, %b), window={size=3x3}, metadata={op_name="step/Dreg/conv_general_dilated"}
  %conv.2 = f32[1,8,8,4]{3,2,1,0} convolution(%a, %b), window={size=3x3}, metadata={op_name="step/Dmain/conv_general_dilated"}
  %conv.3 = bf16[1,8,8,4]{3,2,1,0} convolution(%c, %d), window={size=3x3}, metadata={op_name="step/Gmain/conv_general_dilated"}
  %dot.1 = f32[1,8,8,4]{3,2,1,0} convolution(%a, %b), window={size=1}, metadata={op_name="step/Gmain/dot_general"}
}
'''


def test_roofline_is_the_longer_of_computing_and_reading():
  chip = Peak(flops=100.0, float32_flops=100.0, bandwidth=10.0, memory=1.0)
  assert chip.roofline(200.0, 10.0) == 2.0
  assert chip.roofline(200.0, 50.0) == 5.0


def test_float32_convolutions_outside_of_r1():
  assert tpu_aot.float32_convolutions(_TEXT) == ['step/Dmain/conv_general_dilated']


def test_a_chip_without_a_clock_has_no_estimate():
  compiled = tpu_aot.Compiled(tpu_aot.Cost(1.0, 1.0, 1.0), {}, _TEXT, 1.0)
  assert tpu_aot.estimate(compiled, TPUS['v6e'], 8, 1.0, 2) is None
  found = tpu_aot.estimate(compiled, TPUS['v5e'], 8, 1.0, 2)
  assert found is not None and found['products_ms'] == found['ms'] > 0
  assert len(found['dearest']) == 2


def test_goals_that_are_missed():
  found = {'memory': {'total': 17e9}, 'flops_ratio': 1.1, 'all_reduce_ratio': 1.0,
           'collectives': {'all-reduce': {'count': 3, 'bytes': 8},
                           'all-gather': {'count': 2, 'bytes': 8}},
           'float32_convolutions': [], 'estimate': {'s_per_kimg': 12.0}}
  goals = tpu_aot.judge(found, TPUS['v5e'], 12.5)
  assert {name for name, entry in goals.items() if not entry['met']} == {
      'memory', 'other_collectives'}
  assert goals['estimated_s_per_kimg'] == {'value': 12.0, 'at_most': 12.5, 'met': True}
  assert 'estimated_s_per_kimg' not in tpu_aot.judge(found, TPUS['v5e'], None)
  assert 'estimated_s_per_kimg' not in tpu_aot.judge(
      found | {'estimate': None}, TPUS['v6e'], 12.5)


def test_without_libtpu_a_sentence_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'mat-jax\[tpu\]'"):
    tpu_aot.open_topology('v5e:2x2')


@pytest.mark.parametrize('name', ['v5e', 'v5e:4', 'v9:2x2', 'v5e:2x2;'])
def test_a_topology_that_is_none(name, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
  with pytest.raises(UserError, match='--topology'):
    tpu_aot.open_topology(name)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed')
def test_a_small_step_compiles_for_four_chips():
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.compiled.tpu_aot', '--resolution=64', '--batch_size=4',
       '--width=0.0625'], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  # The maps of so narrow a discriminator are all folded, with zeros that count as operations.
  assert set(found['missed']) <= {'flops_ratio at 64'}
  step = found['programs']['64']['step']
  assert set(step['collectives']) == {'all-reduce'}
