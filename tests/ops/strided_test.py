import jax
import numpy as np
import pytest

from mat_jax.ops import strided
from tests.support import reference


def _operands():
  rng = np.random.default_rng(0)
  shapes = {'x': (2, 9, 7, 3), 'kernel': (3, 3, 3, 4), 'y': (2, 4, 3, 4)}
  return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_the_three_products_are_one_form_of_three_arguments():
  x, kernel, y = _operands().values()
  # A sum of windows, written out.
  expected = sum(
      np.einsum('nhwi,io,nhwo->', x[:, i:i + 7:2, j:j + 5:2], kernel[i, j], y)
      for i in range(3) for j in range(3))
  for product, other in ((strided.strided(x, kernel), y), (strided.transposed(y, kernel), x),
                         (strided.kernel_gradient(x, y), kernel)):
    assert np.vdot(product, other) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('function,names', [
    (strided.strided, ('x', 'kernel')), (strided.transposed, ('y', 'kernel')),
    (strided.kernel_gradient, ('x', 'y'))])
def test_derivatives_are_those_of_finite_differences(function, names):
  first, second = (_operands()[name] for name in names)
  rng = np.random.default_rng(1)
  moves = [rng.standard_normal(a.shape).astype(np.float32) for a in (first, second)]
  result, pull = jax.vjp(function, first, second)
  cotangent = rng.standard_normal(result.shape).astype(np.float32)
  found = sum(np.vdot(g, move) for g, move in zip(pull(cotangent), moves, strict=True))
  # Linear in both arguments: the central difference is exact.
  change = (function(first + moves[0], second + moves[1])
            - function(first - moves[0], second - moves[1])) / 2
  assert reference.relative_error(found, np.vdot(change, cotangent)) <= 1e-4
