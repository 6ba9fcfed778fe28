import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks.measured import device_kernels
from benchmarks.measured.device_kernels import Event

_HLO = '''
ENTRY %main (a: f32[2]) -> f32[2] {
  %loop_add_fusion.3 = f32[2]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(step)/Gmain/add"}
  %conv.1 = f32[2]{0} custom-call(%a), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/transpose(Dmain)/conv"}
}
'''


def test_time_is_summed_by_kernel_kind_and_phase():
  found = device_kernels.summary([
      Event('sm90_xmma_a', 'conv.1', 0.006), Event('sm90_xmma_a', 'conv.1', 0.002),
      Event('loop_add_fusion_3', 'loop_add_fusion_3', 0.001),
      Event('loop_add_fusion_4', 'loop_add_fusion_4', 0.001)], _HLO, calls=2)
  assert found['ms'] == 5
  assert found['kernels'][0] == {
      'instruction': 'conv.1', 'kernel': 'sm90_xmma_a',
      'op_name': 'jit(step)/transpose(Dmain)/conv', 'ms': 4, 'share': 0.8, 'runs': 1}
  assert found['kernels'][1]['op_name'] == 'jit(step)/Gmain/add'
  assert found['kinds'] == [{'kind': '__cudnn$convForward', 'ms': 4, 'share': 0.8, 'runs': 1},
                            {'kind': 'loop_add_fusion', 'ms': 1, 'share': 0.2, 'runs': 1}]
  assert {row['phase']: row['ms'] for row in found['phases']} == {
      'Dmain': 4, 'Gmain': 0.5, 'none': 0.5}


def test_kernels_of_a_program_are_recorded(tmp_path):
  x = jnp.ones((256, 256))

  @jax.jit
  def run(x):
    with jax.named_scope('Gmain'):
      return jnp.dot(x, x)

  program = run.lower(x).compile()
  path = tmp_path / 'kernels.json'
  device_kernels.write(str(path), lambda: program(x), program.as_text())
  found = json.loads(path.read_text())
  assert found['ms'] == pytest.approx(sum(row['ms'] for row in found['kinds']), rel=0.01)
  assert found['ms'] > 0
  assert any('Gmain' in row['op_name'] for row in found['kernels'])
  assert sum(line['events'] for line in found['lines']) > 0
