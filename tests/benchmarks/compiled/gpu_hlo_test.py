import pytest

from benchmarks.compiled import gpu_hlo

_TEXT = '''HloModule jit_step

%gemm (p0: bf16[32,16], p1: bf16[16,8]) -> bf16[32,8] {
  %p0 = bf16[32,16]{1,0} parameter(0)
  %p1 = bf16[16,8]{1,0} parameter(1)
  ROOT %dot.1 = bf16[32,8]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%turned (p2: bf16[8,256,256,64]) -> bf16[8,64,256,256] {
  %p2 = bf16[8,256,256,64]{3,2,1,0} parameter(0)
  ROOT %transpose.1 = bf16[8,64,256,256]{3,2,1,0} transpose(%p2), dimensions={0,3,1,2}
}

%rare (p3: f32[8,65,65,64], p4: f32[128,3,3,64], p5: f32[8,32,32,128]) -> f32[128,3,3,64] {
  %p3 = f32[8,65,65,64]{3,2,1,0} parameter(0)
  %p4 = f32[8,32,32,128]{3,2,1,0} parameter(1)
  ROOT %filter = (f32[128,3,3,64]{3,2,1,0}, u8[0]{0}) custom-call(%p3, %p4), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter", metadata={op_name="jit(step)/Dreg/conv"}
}

%nothing (p8: bf16[32,16]) -> bf16[32,16] {
  %p8 = bf16[32,16]{1,0} parameter(0)
  ROOT %kept = bf16[32,16]{1,0} copy(%p8)
}

%body (p6: bf16[8,64,64,64]) -> bf16[8,64,64,32] {
  %p6 = bf16[8,64,64,64]{3,2,1,0} parameter(0)
  %p7 = bf16[32,3,3,64]{3,2,1,0} parameter(1)
  ROOT %forward = (bf16[8,64,64,32]{3,2,1,0}, u8[0]{0}) custom-call(%p6, %p7), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
}

ENTRY %main (a: bf16[32,16], b: bf16[16,8], c: bf16[8,256,256,64]) -> bf16[32,8] {
  %a = bf16[32,16]{1,0} parameter(0)
  %b = bf16[16,8]{1,0} parameter(1)
  %c = bf16[8,256,256,64]{3,2,1,0} parameter(2)
  %dy = bf16[8,32,32,128]{3,2,1,0} parameter(3)
  %kernel = bf16[128,3,3,64]{3,2,1,0} parameter(4)
  %input = (bf16[8,65,65,64]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %kernel), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %own = f32[8,8,8,4]{3,2,1,0} convolution(%c, %kernel), window={size=3x3}, dim_labels=b01f_o01i->b01f
  %turn = bf16[8,64,256,256]{3,2,1,0} fusion(%c), kind=kInput, calls=%turned
  %loop = bf16[8,64,64,32]{3,2,1,0} while(%c), condition=%never, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %cond = f32[128,3,3,64]{3,2,1,0} conditional(%c, %c, %c), branch_computations={%rare, %nothing}
  ROOT %product = bf16[32,8]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm
}
'''


def _kernels():
  return gpu_hlo.kernels(_TEXT, rare=1 / 16)


def test_operations_of_every_product():
  found = {k.target.removeprefix('__cudnn$conv') or k.opcode: k for k in _kernels() if k.flops}
  taps = 2 * 9 * 64
  assert found['Forward'].flops == taps * 8 * 64 * 64 * 32
  # A strided convolution, its gradient of the input and that of the kernel cost the same.
  assert found['BackwardInput'].flops == taps * 8 * 32 * 32 * 128
  assert found['BackwardFilter'].flops == taps * 8 * 32 * 32 * 128
  assert found['fusion'].flops == 2 * 32 * 16 * 8
  assert found['convolution'].flops == taps * 8 * 8 * 8 * 4
  assert {name: k.dtype for name, k in found.items()} == {
      'Forward': 'bf16', 'BackwardInput': 'bf16', 'BackwardFilter': 'f32', 'fusion': 'bf16',
      'convolution': 'bf16'}


def test_how_often_a_kernel_runs():
  times = {k.target.removeprefix('__cudnn$conv'): k.times for k in _kernels() if k.target}
  assert times == {'BackwardInput': 1, 'Forward': 5, 'BackwardFilter': 1 / 16}


def test_the_other_branch_runs_in_all_other_steps():
  assert [k.times for k in _kernels() if k.opcode == 'copy'] == [15 / 16]


def test_only_convolutions_of_cudnn_are_cudnns():
  own = [k for k in _kernels() if k.is_convolution and not k.is_cudnn]
  assert [k.opcode for k in own] == ['convolution']
  assert sum(k.is_cudnn for k in _kernels()) == 3


def test_bytes_and_what_is_only_moved():
  size = 2 * 8 * 256 * 256 * 64
  (turn,) = [k for k in _kernels() if k.moved]
  assert turn.moved == size and turn.bytes == 2 * size and not turn.flops


def test_seconds_are_those_of_peak_or_bandwidth():
  forward = next(k for k in _kernels() if k.times == 5)
  peaks = {'bf16': 1e12, 'f32': 1e11}
  assert gpu_hlo.seconds([forward], peaks, 1e18) == pytest.approx(5 * forward.flops / 1e12)
  assert gpu_hlo.seconds([forward], peaks, 1e6) == pytest.approx(5 * forward.bytes / 1e6)
