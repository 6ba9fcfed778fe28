"""Metric accumulators: means of a step's metrics over the steps of a tick, kept on the devices.

A metric that is not finite is left out of the mean and counted instead.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

Accumulators = dict[str, jax.Array]

# The loss terms, which the NaN guard checks.
LOSSES = ('loss/g', 'loss/g_stage1', 'loss/perceptual', 'loss/l1', 'loss/d', 'loss/d_stage1',
          'loss/lecam', 'loss/r1', 'loss/r1_stage1', 'loss/lpips', 'loss/g_projected',
          'loss/d_projected')
# Losses that are off by default; a state has accumulators of those that its run uses.
_OPTIONAL = ('loss/lpips', 'loss/g_projected', 'loss/d_projected')
_METRICS = (*(name for name in LOSSES if name not in _OPTIONAL),
            'logits/fake', 'logits/fake_stage1', 'logits/real', 'logits/real_stage1',
            'signs/fake', 'signs/fake_stage1', 'signs/real', 'signs/real_stage1')
# L2 norms of all gradients of a network in a phase (Gmain, Dmain, Dreg), before Adam.
GRADIENT_NORMS = ('gradient_norm/g', 'gradient_norm/d', 'gradient_norm/r1')


def empty(optional: Iterable[str] = ()) -> Accumulators:
  """Accumulators of no steps: name -> float32 [3]: sum, count, number of non-finite values.

  Args:
    optional: names of losses that only some runs have.
  """
  return {name: jnp.zeros(3) for name in (*_METRICS, *optional)}


def no_norms() -> Accumulators:
  """Accumulators of the gradient norms of no steps, as `empty` has them for other metrics."""
  return {name: jnp.zeros(3) for name in GRADIENT_NORMS}


def add(totals: Accumulators, metrics: dict[str, jax.Array]) -> Accumulators:
  """Adds the metrics of a step; metrics of phases that it did not run may be missing."""
  return totals | {name: totals[name] + _entry(value) for name, value in metrics.items()}


def _entry(value: jax.Array) -> jax.Array:
  finite = jnp.isfinite(value)
  return jnp.stack([jnp.where(finite, value, 0.0), finite, ~finite]).astype(jnp.float32)


def means(totals: dict[str, Any]) -> dict[str, float]:
  """Name -> mean; metrics with a count of 0 are left out, `nonfinite_losses` is a count."""
  found = {name: float(total) / float(count)
           for name, (total, count, _) in totals.items() if count}
  found['nonfinite_losses'] = float(
      sum(totals[name][2] for name in LOSSES if name in totals))
  return found
