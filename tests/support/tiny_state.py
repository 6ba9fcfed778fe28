"""A `TrainState` of a few small arrays, for tests of checkpoints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mat_jax.checkpoints.manager import Best, Checkpoints
from mat_jax.checkpoints.reader import abstract_state
from mat_jax.training.step.train_state import TrainState

MODEL = {'resolution': 64, 'mapping_layers': 2, 'width': 0.0625, 'dtype': 'auto'}


def tiny_state(step: int) -> TrainState:
  """A state with other values for every field and step."""
  rng = np.random.default_rng(step)
  fields = {field.name: {'layer': {'kernel': jnp.asarray(rng.normal(size=(20, 30)), jnp.float32)},
                         'count': jnp.int32(step)}
            for field in dataclasses.fields(TrainState)}
  return TrainState(**(fields | {'step': jnp.int32(step), 'images_seen': jnp.int32(4 * step)}))


def like() -> TrainState:
  """What to restore a `tiny_state` into."""
  return abstract_state(tiny_state(0), jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def open_checkpoints(workdir, max_to_keep: int = 2, best: Best | None = None,
                     **meta) -> Checkpoints:
  """Checkpoints of a run of `MODEL`."""
  return Checkpoints(str(workdir), {'model': MODEL, **meta}, max_to_keep, best)


def save_steps(workdir, *steps: int, **kwargs) -> None:
  """Saves the tiny state of each step."""
  checkpoints = open_checkpoints(workdir, **kwargs)
  for step in steps:
    checkpoints.save(tiny_state(step))
  checkpoints.close()


def equal(left: TrainState, right: TrainState) -> bool:
  """Whether two states are the same, bit for bit."""
  same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), left, right)
  return all(jax.tree.leaves(same))
