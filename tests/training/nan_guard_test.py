import numpy as np
import pytest

from mat_jax.errors import UserError
from mat_jax.training.nan_guard import NanGuard
from mat_jax.training.step import accumulators


def _losses(**bad):
  values = dict.fromkeys(accumulators.LOSSES, 1.0)
  values |= {f'loss/{name}': value for name, value in bad.items()}
  return np.array(list(values.values()), np.float32)


def test_names_the_step_and_the_term(caplog):
  watch = NanGuard(limit=3)
  watch.step_done(7, _losses(d=np.nan, r1=np.inf))
  assert not caplog.text, 'a step is looked at while the next one runs'
  watch.step_done(8, _losses())
  assert 'Step 7: loss/d is nan, loss/r1 is inf (1 in a row)' in caplog.text
  assert watch.in_a_row == 1
  watch.catch_up()
  assert watch.in_a_row == 0


def test_ends_after_so_many_in_a_row():
  watch = NanGuard(limit=2)
  for step in (1, 2, 3, 4):  # every second one is fine
    watch.step_done(step, _losses(**({'g': np.nan} if step % 2 else {})))
  watch.step_done(5, _losses(g=np.nan))
  watch.step_done(6, _losses(g=np.nan))
  with pytest.raises(UserError, match='step 6, after 2 steps in a row .*: loss/g is nan;'):
    watch.catch_up()
