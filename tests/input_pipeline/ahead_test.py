import threading

import pytest

from input_pipeline.ahead import in_order
from mat_jax.errors import UserError


def test_in_order():
  assert list(in_order(lambda x: x * x, range(100))) == [x * x for x in range(100)]


def test_in_order_raises_and_stops():
  seen, lock = [], threading.Lock()

  def fail(x):
    with lock:
      seen.append(x)
    if x == 3:
      raise UserError('three')
    return x

  with pytest.raises(UserError, match='three'):
    list(in_order(fail, range(10_000)))
  assert len(seen) < 1000
