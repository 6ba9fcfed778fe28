import jax
import jax.numpy as jnp
import pytest

from benchmarks import analytic
from benchmarks.compiled import tpu_estimate
from benchmarks.peaks import TPUS


def test_operations_are_those_that_their_functions_need():
  for operation in tpu_estimate.operations():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in operation.shapes]
    assert operation.flops == analytic.flops(operation.function, *shapes), operation.name


def test_published_time_of_a_large_matmul_and_of_a_pass_over_a_map():
  found = {operation.name: operation.published(TPUS['v5e'])
           for operation in tpu_estimate.operations()}
  assert found['matmul 8192 x 8192 x 8192'] == pytest.approx(2 * 8192**3 / 197e12)
  assert found['x * 2 + 1, 512 channels'] == pytest.approx(2 * 2 * 8 * 256 * 256 * 512 / 819e9)
