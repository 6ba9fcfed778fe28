from benchmarks.hlo_module import Module, called, target

_TEXT = '''HloModule jit_step

%fused (p0: f32[4]) -> f32[4] {
  %p0 = f32[4]{0} parameter(0)
  ROOT %square = f32[4]{0} multiply(%p0, %p0)
}

%body (p1: f32[4]) -> f32[4] {
  %p1 = f32[4]{0} parameter(0)
  %twice = f32[4]{0} while(%p1), condition=%never, body=%inner, backend_config={"known_trip_count":{"n":"2"}}
  ROOT %turn = f32[4]{0} fusion(%p1), kind=kLoop, calls=%fused
}

%inner (p2: f32[4]) -> f32[4] {
  %p2 = f32[4]{0} parameter(0)
  ROOT %deep = f32[4]{0} negate(%p2)
}

%seldom (p3: f32[4]) -> f32[4] {
  %p3 = f32[4]{0} parameter(0)
  ROOT %library = f32[4]{0} custom-call(%p3), custom_call_target="tpu_custom_call"
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %loop = f32[4]{0} while(%a), condition=%never, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %choice = f32[4]{0} conditional(%a, %a, %a), true_computation=%seldom, false_computation=%nothing
  ROOT %sum = f32[4]{0} add(%loop, %choice)
}
'''


def test_loops_multiply_and_conditions_divide_how_often_an_instruction_runs():
  found = {instruction.name: times for instruction, times in Module(_TEXT).executed(rare=0.25)}
  assert (found['loop'], found['turn'], found['deep'], found['library']) == (1, 5, 10, 0.25)
  assert 'square' not in found  # inside a fusion


def test_what_an_instruction_names():
  module = Module(_TEXT)
  assert module.entry == 'main'
  turn, library = module.computations['body']['turn'], module.computations['seldom']['library']
  assert [i.name for i in module.inside(turn)] == ['p0', 'square'] and called(turn) == ['fused']
  assert [i.name for i in module.operands(turn)] == ['p1']
  assert (target(library), target(turn)) == ('tpu_custom_call', '')
