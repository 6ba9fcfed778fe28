"""Checks the losses of a run for values that are not finite."""

from absl import logging
import jax
import numpy as np

from mat_jax.errors import UserError
from mat_jax.training.step import accumulators


class NanGuard:
  """Checks the losses of each step once the next one is dispatched.

  That keeps the devices busy, and bounds how far the host runs ahead of them.
  """

  def __init__(self, limit: int):
    """Ends the run after `limit` steps in a row with a loss that is not finite."""
    self._limit, self._in_a_row = limit, 0
    self._pending: tuple[int, jax.Array] | None = None

  @property
  def in_a_row(self) -> int:
    """Number of consecutive steps with a loss that is not finite, up to the last one checked."""
    return self._in_a_row

  def step_done(self, step: int, losses: jax.Array) -> None:
    """Checks the step before this one; arguments as in the compiled step's result.

    Raises:
      UserError: too many steps in a row.
    """
    self.catch_up()
    self._pending = step, losses

  def catch_up(self) -> None:
    """Waits for the last step and checks it; raises as `step_done`."""
    if self._pending is None:
      return
    (step, losses), self._pending = self._pending, None
    values = np.asarray(losses)
    bad = [f'{name} is {value}' for name, value in zip(accumulators.LOSSES, values, strict=True)
           if not np.isfinite(value)]
    self._in_a_row = self._in_a_row + 1 if bad else 0
    if bad:
      logging.warning('Step %d: %s (%d in a row).', step, ', '.join(bad), self._in_a_row)
    if self._in_a_row >= self._limit:
      raise UserError(
          f'the run has stopped at step {step}, after {self._in_a_row} steps in a row with a loss '
          f'that is not finite (train.max_nonfinite_steps): {" and ".join(bad)}; go on from the '
          'newest checkpoint, which is from before that, with another setting, such as a lower '
          '--config.optimizer.learning_rate or --config.model.dtype=float32')
