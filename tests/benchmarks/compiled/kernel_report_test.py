import pytest

from benchmarks.compiled import kernel_report
from benchmarks.compiled.gpu_hlo import Kernel

_BACKWARD = ('jit(step)/Gmain/transpose(jvp(Generator.synthesize))/synthesis/dec/block_256/conv0/'
             'mul')
_FORWARD = 'jit(step)/Dmain/Generator.synthesize/synthesis/first_stage/tran_0/blocks_1/attn/dot'


def _kernel(op_name, gigabytes=1, times=1.0, flops=0, target=''):
  return Kernel('fusion', target, op_name, times, 'bf16', flops, int(gigabytes * 1e9), 0, False,
                (('bf16', (8, 256, 256, 128)), ('u8', (0,))), (('f32', (128,)),))


def test_a_name_tells_phase_part_direction_and_layer():
  backward, forward = _kernel(_BACKWARD), _kernel(_FORWARD)
  assert kernel_report.phase(backward) == 'Gmain' and kernel_report.phase(forward) == 'Dmain'
  assert kernel_report.direction(backward) == 'backward'
  assert kernel_report.direction(forward) == 'forward'
  assert kernel_report.part(backward) == 'decoder'
  assert kernel_report.part(forward) == 'transformer of stage one'
  assert kernel_report.layer(backward) == 'synthesis/dec/block_256/conv0/mul'


def test_names_of_what_is_computed_again_and_of_adjoints():
  again = _kernel('jit(step)/Gmain/transpose(jvp(Generator.synthesize))/synthesis/dec/Gmain/jvp('
                  'Generator.synthesize)/synthesis/dec/checkpoint/block_256/conv1/mul')
  assert kernel_report.direction(again) == 'backward' and kernel_report.phase(again) == 'Gmain'
  assert kernel_report.layer(again) == 'synthesis/dec/block_256/conv1/mul'
  adjoint = _kernel('jit(step)/Dmain/jvp(Generator.synthesize)/synthesis/dec/transpose()/conv')
  assert kernel_report.direction(adjoint) == 'forward'


def test_kinds_of_kernels():
  assert kernel_report.kind(_kernel('', target='__cudnn$convForward')) == 'convolution'
  assert kernel_report.kind(_kernel('', flops=2)) == 'matmul'
  assert kernel_report.kind(_kernel('')) == 'elementwise'


def test_the_budget_adds_up_what_belongs_together():
  kernels = [_kernel(_BACKWARD), _kernel(_BACKWARD, flops=2), _kernel(_FORWARD, 16, 1 / 16),
             _kernel('', 0.5)]
  rows = kernel_report.budget(kernels)
  assert [(row['part'], row['gb'], row['gb_elementwise'], row['kernels']) for row in rows] == [
      ('decoder', 2, 1, 2), ('transformer of stage one', 1, 1, 1 / 16), ('other', 0.5, 0.5, 1)]
  assert sum(row['gb'] for row in rows) == pytest.approx(
      sum(k.times * k.bytes / 1e9 for k in kernels))


def test_the_largest_come_first_and_equal_ones_are_one_row():
  first, second = kernel_report.largest([_kernel(_FORWARD, 1.5), *[_kernel(_BACKWARD)] * 2,
                                         _kernel('', 0.1)], 2)
  assert (first['gb'], first['launches']) == (2, 2)
  assert (second['gb'], second['launches']) == (1.5, 1)
  assert first['results'] == 'bf16[8,256,256,128]' and first['operands'] == 'f32[128]'
  (line, _) = kernel_report.lines([first, second])
  assert '2.000 GB' in line and 'dec/block_256/conv0/mul' in line
