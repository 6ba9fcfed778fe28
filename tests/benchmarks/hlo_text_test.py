import jax
import jax.numpy as jnp

from benchmarks import hlo_text

_TEXT = '''HloModule jit_step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (param_0: bf16[8,64,64,32], param_1: bf16[3,3,32,64]) -> bf16[8,64,64,64] {
  %param_0 = bf16[8,64,64,32]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = bf16[3,3,32,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = f32[8,64,64,64]{3,2,1,0:T(8,128)} convolution(%param_0, %param_1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/Gmain/conv/conv_general_dilated" source_line=3}
}

ENTRY %main.5 (a: f32[4], b: f32[2,3]) -> f32[4] {
  %a = f32[4]{0:T(128)} parameter(0)
  %b = f32[2,3]{1,0:T(4,128)S(1)} parameter(1)
  %dot.1 = f32[2,2]{1,0} dot(%b, %b), lhs_contracting_dims={1}, metadata={op_name="jit(step)/Dreg/dot_general"}
  %all-reduce.1 = (f32[4]{0:T(128)}, /*index=1*/bf16[2,3]{1,0}) all-reduce(%a, %b), replica_groups={{0,1}}, to_apply=%add
  %all-reduce-start.1 = (f32[4]{0}, f32[4]{0}) all-reduce-start(%a), replica_groups={{0,1}}, to_apply=%add
  %all-reduce-done.1 = f32[4]{0} all-reduce-done(%all-reduce-start.1)
  %all-gather-start.1 = (f32[4]{0}, f32[8]{0}) all-gather-start(%a), dimensions={0}
  %all-gather-done.1 = f32[8]{0} all-gather-done(%all-gather-start.1)
  %cudnn = (f32[2,8]{1,0}, u8[0]{0}) custom-call(%b, %b), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/x"}
}
'''


def test_collectives():
  assert hlo_text.collectives(_TEXT) == {
      'all-reduce': {'count': 2, 'bytes': 16 + 12 + 16}, 'all-gather': {'count': 1, 'bytes': 32}}


def test_products_know_their_operands_and_their_origin():
  conv, dot, cudnn = hlo_text.products(_TEXT)
  assert conv.dtypes == ('bf16', 'bf16') and conv.shape == (8, 64, 64, 64)
  assert conv.is_convolution and 'Gmain' in conv.op_name
  assert dot.dtypes == ('f32', 'f32') and not dot.is_convolution and 'Dreg' in dot.op_name
  assert cudnn.is_convolution and cudnn.target == '__cudnn$convForward'


def test_text_of_this_version_of_jax():
  def run(x, kernel):
    with jax.named_scope('Dreg'):
      return jax.lax.conv_general_dilated(
          x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  text = jax.jit(run).lower(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))).compile().as_text()
  (product,) = [p for p in hlo_text.products(text) if p.is_convolution]
  assert set(product.dtypes) == {'f32'} and 'Dreg' in product.op_name
