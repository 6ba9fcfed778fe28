"""What a training run has left in its workdir."""

import json
import os

import jax
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mat_jax.checkpoints import reader
from mat_jax.checkpoints.manager import Checkpoints
from mat_jax.runtime import sharding
from mat_jax.training import start
from mat_jax.training.step import aot, settings


def events(workdir):
  """All of TensorBoard's events."""
  accumulator = EventAccumulator(workdir, size_guidance={'tensors': 0})
  accumulator.Reload()
  return accumulator


def event_steps(workdir, tag):
  """The steps that TensorBoard shows of a tag."""
  return [event.step for event in events(workdir).Tensors(tag)]


def rows(workdir):
  """The objects in `stats.jsonl`."""
  with open(os.path.join(workdir, 'stats.jsonl'), encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def metrics(workdir):
  """The rows without speed and memory, which differ from run to run."""
  return [{name: value for name, value in row.items()
           if not name.startswith(('time/', 'memory/'))} for row in rows(workdir)]


def state(workdir, config):
  """The newest state."""
  config = start.with_model_of(config, workdir)
  networks = start.make_networks(config)
  mesh = sharding.make_mesh()
  create = aot.compiled_create(networks, settings.training_from_config(config), mesh)
  like = reader.abstract_state(
      jax.eval_shape(create, jax.random.key(0)), sharding.replicated(mesh))
  return Checkpoints(workdir, {'model': config.model.to_dict()}, 9).restore(like)
