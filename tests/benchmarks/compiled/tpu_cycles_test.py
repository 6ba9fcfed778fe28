import pytest

from benchmarks.compiled import tpu_cycles
from benchmarks.peaks import TPUS, Peak

_CONFIG = 'backend_config={"flag_configs":[],"window_config":{"output_window_bounds":["7","11","1","2"],"estimated_cycles":"%s","iteration_bounds":["37","24"],"cost_model_type":"COST_MODEL_TYPE_CLASSIC"},"used_scoped_memory_configs":[]}'
# A condition of R1, a loop of three turns, fusions of both passes, and what has no estimate.
_TEXT = '''HloModule jit_step, is_scheduled=true

%fused_computation (param_0: bf16[8,16,16,180]) -> bf16[8,16,16,180] {
  %param_0 = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  ROOT %multiply.1 = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} multiply(%param_0, %param_0)
}

%body (p: bf16[8,16,16,180]) -> bf16[8,16,16,180] {
  %p = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  ROOT %turn = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} fusion(%p), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(step)/Gmain/mul"}, @200
}

%regularize (q: bf16[8,16,16,180]) -> bf16[8,16,16,180] {
  %q = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  ROOT %penalty = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} fusion(%q), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(step)/cond/branch_1_fun/Dreg/transpose(jvp(Discriminator))/dis/block_256/conv0/mul"}, @1600
}

%keep (r: bf16[8,16,16,180]) -> bf16[8,16,16,180] {
  ROOT %r = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} parameter(0)
}

ENTRY %main.5 (x: bf16[8,16,16,180]) -> bf16[8,16,16,180] {
  %x = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %forward = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} fusion(%x), kind=kOutput, calls=%fused_computation, metadata={op_name="jit(step)/Gmain/jvp(Generator.synthesize)/synthesis/first_stage/conv_first/conv/conv_general_dilated"}, @1000
  %backward = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} fusion(%x), kind=kOutput, calls=%fused_computation, metadata={op_name="jit(step)/Gmain/transpose(jvp(Generator.synthesize))/synthesis/first_stage/conv_first/conv/conv_general_dilated"}, @3000
  %loop = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} while(%x), condition=%never, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %cond = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} conditional(%x, %x, %x), branch_computations={%keep, %regularize}
  %kernel = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/Gmain/jvp(Generator.synthesize)/synthesis/first_stage/tran_0/blocks_0/attn/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"4000","transcendentals":"7","bytes_accessed":"10"}}}
  %copy-start.1 = (bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)S(1)}, bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done.1 = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)S(1)} copy-done(%copy-start.1)
  ROOT %all-reduce.1 = bf16[8,16,16,180]{3,0,2,1:T(8,128)(2,1)} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}
'''
_TEXT = '\n'.join(
    line if '@' not in line else line[:line.index('@')] + _CONFIG % line[line.index('@') + 1:]
    for line in _TEXT.splitlines())
_CHIP = Peak(flops=1000.0, float32_flops=1000.0, bandwidth=100.0, memory=1.0, clock=1000.0)
_BYTES = 2 * 8 * 16 * 16 * 180


def _executed():
  return {entry.name: entry for entry in tpu_cycles.executed(_TEXT, _CHIP, rare=1 / 16)}


def test_cycles_weighed_by_how_often_they_run():
  found = _executed()
  assert {name: entry.seconds for name, entry in found.items() if entry.cycles is not None} == {
      'forward': 1.0, 'backward': 3.0, 'turn': 3 * 0.2, 'penalty': 1.6 / 16}
  assert found['turn'].times == 3 and found['penalty'].times == 1 / 16


def test_what_has_no_estimate_is_taken_at_the_rates_of_the_chip():
  found = _executed()
  assert found['kernel'].seconds == 4.0  # operations over the peak
  assert found['copy-start.1'].seconds == 0.0
  assert found['all-reduce.1'].seconds == pytest.approx(2 * _BYTES / 100.0)
  assert found.keys() == {'forward', 'backward', 'turn', 'penalty', 'kernel', 'copy-start.1',
                          'all-reduce.1'}


@pytest.mark.parametrize('op_name, part', [
    ('jit(step)/Gmain/jvp(Generator.synthesize)/synthesis/dec/block_256/conv0/conv/mul',
     'Gmain dec/block_256'),
    ('jit(step)/Dmain/jvp(Generator.synthesize)/synthesis/first_stage/first_stage._transform/tran_0/'
     'blocks_1/attn/pallas_call', 'Dmain first_stage/tran_0'),
    ('jit(step)/Gmain/transpose(jvp(vgg))/conv_general_dilated', 'Gmain vgg'),
    ('jit(step)/cond/branch_1_fun/Dreg/jvp(Discriminator)/dis_stage1/conv/add', 'Dreg dis_stage1/conv'),
    ('jit(step)/Gmain/sub', 'Gmain other'), ('', 'other')])
def test_parts_are_named_by_phase_and_module(op_name, part):
  assert tpu_cycles.part(op_name) == part


def test_summary_by_part_and_pass():
  found = tpu_cycles.summarize(list(_executed().values()), _CHIP, images=4)
  assert found['parts']['Gmain first_stage/conv_first'] == {
      'forward_ms': 1000.0, 'backward_ms': 3000.0}
  assert found['parts']['Dreg dis/block_256'] == {'forward_ms': 0.0, 'backward_ms': 100.0}
  assert found['s_per_kimg'] == pytest.approx(found['ms'] / 4)
  assert found['products_ms'] == 4000.0  # the kernel's
  assert found['without_estimate']['all-reduce'] == {
      'count': 1, 'bytes': 2 * _BYTES, 'taken_ms': pytest.approx(1e3 * 2 * _BYTES / 100)}
  assert any('Gmain first_stage/conv_first' in line for line in tpu_cycles.lines(found, parts=20))


def test_without_a_product_the_bandwidth_may_be_what_limits():
  fast = Peak(flops=1000.0, float32_flops=1000.0, bandwidth=1e9, memory=1.0, clock=1000.0)
  (forward,) = [e for e in tpu_cycles.executed(_TEXT, fast) if e.name == 'forward']
  assert forward.seconds == 1.0
  assert forward.at_bandwidth(fast) == pytest.approx(2 * _BYTES / 1e9)


def test_dearest_come_first():
  kernel, backward = tpu_cycles.dearest(
      [entry for name, entry in _executed().items() if name != 'all-reduce.1'], 2)
  assert 'tpu_custom_call' in kernel and 'transpose(' in backward


def test_clocks_follow_from_peak_and_matrix_units():
  assert TPUS['v5e'].clock == pytest.approx(1.503e9, rel=1e-3)
  assert TPUS['v4'].clock == pytest.approx(1.049e9, rel=1e-3)
