import jax.numpy as jnp
import numpy as np

from mat_jax.training.step import accumulators


def test_means_are_over_the_steps_that_had_the_metric():
  sums = accumulators.empty()
  for step in range(4):
    sums = accumulators.add(sums, {'loss/d': jnp.float32(step)})
    if step % 2:
      sums = accumulators.add(sums, {'loss/r1': jnp.float32(10 * step)})
  means = accumulators.means(sums)
  assert means['loss/d'] == 1.5 and means['loss/r1'] == 20.0
  assert 'loss/g' not in means and means['nonfinite_losses'] == 0


def test_what_is_not_finite_is_left_out_and_counted():
  sums = accumulators.empty()
  for value in (1.0, np.nan, np.inf, 3.0):
    sums = accumulators.add(sums, {'loss/g': jnp.float32(value), 'logits/fake': jnp.float32(value)})
  means = accumulators.means(sums)
  assert means['loss/g'] == means['logits/fake'] == 2.0
  assert means['nonfinite_losses'] == 2, 'logits are no losses'
