"""Runs the training loop with a step of nothing and a phase that does not come back.

  python -m tests.support.loop_worker SECONDS PHASE=WORKDIR ...

Each run is a process of its own, forked when everything is imported. It gets SIGTERM in its
phase. The last line is JSON: phase -> exit code and seconds from the signal. Run by `loop_test`.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from configs import tiny
from input_pipeline import from_config
import main
from mat_jax.checkpoints.manager import Checkpoints
from mat_jax.runtime import sharding
from mat_jax.runtime.preemption import Preemption
from mat_jax.training import loop, train
from mat_jax.training.step import accumulators, aot, microbatch, settings
from mat_jax.training.step.train_state import AugmentState
from mat_jax.training.summary_writer import SummaryWriter
from tests.support.tiny_state import MODEL, like, tiny_state

STEPS, TICK, SNAPSHOT = 12, 2, 4
_STUCK_AT = 6  # the calls of a phase, from 1
_SIDE = 8


def fresh_state():
  """Before the first step."""
  state = tiny_state(0).replace(totals=accumulators.empty(), warmup_images=jnp.int32(0),
                                augment=AugmentState(*jnp.zeros(3)), loss_scale=None,
                                gradient_norms=accumulators.no_norms())
  return jax.tree.map(jnp.copy, state)  # buffers of its own for every array, to donate


def _step(state, features, batch):
  found = {name: jnp.float32(state.step) for name in accumulators.LOSSES if name in state.totals}
  state = state.replace(
      step=state.step + 1, images_seen=state.images_seen + 4,
      totals=accumulators.add(state.totals, found),
      g_params=jax.tree.map(lambda x: x + batch['image'].sum().astype(x.dtype), state.g_params))
  return state, jnp.zeros(len(accumulators.LOSSES))


class _Stream:
  """Batches that say which they are."""

  unreadable = ()

  def __init__(self, number):
    self._number = number

  def __next__(self):
    self._number += 1
    return {'image': np.full((4, _SIDE, _SIDE, 3), self._number, np.float32)}


def _config():
  config = tiny.get_config()
  config.train.update(batch_size=4, total_kimg=STEPS * 0.004, kimg_per_tick=TICK * 0.004,
                      snapshot_ticks=SNAPSHOT // TICK)
  return config


def _validate(networks, variables, should_stop):
  return None if should_stop() else {'validation/psnr': 20.0}


def _complete(variables, images, masks, seeds, psi):
  return jnp.zeros_like(images), jnp.zeros_like(images)


def _block():
  """As a compiler does: in C, where Python handles no signal."""
  print('ready', flush=True)
  os.system('exec sleep 60 >/dev/null')


def stuck(function, call=_STUCK_AT):
  """The function, which does not come back from one of its calls."""
  calls = []

  def wrapped(*args, **kwargs):
    calls.append(1)
    if len(calls) == call:
      _block()
    return function(*args, **kwargs)

  return wrapped


def _slow(function):
  def wrapped(*args):
    time.sleep(0.05)
    return function(*args)
  return wrapped


@contextlib.contextmanager
def _phase(name, program):
  """Has a phase of the loop stick, the `_STUCK_AT`th time or in the snapshot before that."""
  snapshot = _STUCK_AT // SNAPSHOT
  places = {
      'data': (_Stream, '__next__', _STUCK_AT), 'compiling': (program, 'prepare', 2 * _STUCK_AT - 1),
      'step': (program, '_compiled', _STUCK_AT), 'slow step': (program, '_compiled', _STUCK_AT),
      'scalars': (SummaryWriter, 'write_scalars', 2), 'row': (SummaryWriter, 'write_row', 2),
      'validation': (sys.modules[__name__], '_validate', snapshot),
      'samples': (sys.modules[__name__], '_complete', 1 + snapshot),
      'save': (Checkpoints, '_write', snapshot), 'disk': (SummaryWriter, 'flush', snapshot)}
  with contextlib.ExitStack() as stack:
    if name == 'slow step':
      stack.enter_context(mock.patch.object(loop, '_SLOW_STEP', 0.01))
      program._compiled = _slow(program._compiled)
    if name in places:
      owner, attribute, call = places[name]
      found = stuck(getattr(owner, attribute), call)
      if not isinstance(owner, type):
        stack.enter_context(mock.patch.object(owner, attribute, found))
      else:
        stack.enter_context(mock.patch.object(
            owner, attribute, lambda *args, **kwargs: found(*args, **kwargs)))
    yield


def run(workdir, phase='none', seconds=20.0):
  """Runs, or resumes, in the way of `train.train`."""
  config, mesh = _config(), sharding.make_mesh(jax.devices()[:1])
  program = aot.AotFunction(jax.jit(_step, donate_argnums=0), 'the training step')
  with contextlib.ExitStack() as stack:
    preemption = stack.enter_context(Preemption(seconds))
    checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, {'model': MODEL}, 9)))
    restored = checkpoints.restore(jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=like().step.sharding),
        fresh_state()))
    state = jax.device_put(restored or fresh_state(), sharding.replicated(mesh))
    writer = stack.enter_context(contextlib.closing(train._open_writer(config, workdir, state)))
    program.prepare(state, None, sharding.to_global(next(_Stream(0)), mesh))
    stack.enter_context(mock.patch.object(aot, 'compiled_step', lambda *args: program))
    stack.enter_context(mock.patch.object(
        loop, '_complete', lambda *args: lambda *inputs: _complete(*inputs)))
    stack.enter_context(_phase(phase, program))
    images = np.zeros((1, _SIDE, _SIDE, 3), np.float32)
    step = microbatch.Step(None, settings.training_from_config(config), mesh, is_fixed=True)
    options = loop.Run(
        config, mesh, mock.Mock(), step, None,
        _Stream(int(state.step)), {'image': images, 'mask': images[..., :1]},
        lambda *args: _validate(*args), checkpoints, writer, preemption)
    return loop.Loop(options, int(state.step)).run(state)


def _start(phase, workdir, seconds):
  if phase not in ('open_training', 'make_networks', 'initial_state'):
    run(workdir, phase, seconds)
    return
  owner = from_config if phase == 'open_training' else train.start
  config = tiny.get_config()
  config.train.preemption_secs = seconds
  with mock.patch.object(owner, phase, stuck(getattr(owner, phase), 1)):
    main.train(config, workdir)


def _fork(*arguments):
  """The process of a run, and what it prints."""
  reader, writer = os.pipe()
  child = os.fork()
  if not child:
    os.dup2(writer, 1)
    try:
      _start(*arguments)
      os._exit(0)
    except BaseException:
      traceback.print_exc()
      os._exit(1)
  os.close(writer)
  return child, os.fdopen(reader)


def run_phases():
  seconds, *phases = sys.argv[1:]
  phases = [phase.split('=') for phase in phases]
  children = [(phase, *_fork(phase, workdir, float(seconds))) for phase, workdir in phases]
  found = {}

  def follow(phase, child, lines):
    is_ready = 'ready\n' in lines
    time.sleep(0.2)
    sent = time.monotonic()
    os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found[phase] = [code if is_ready else 'not ready', time.monotonic() - sent]

  threads = [threading.Thread(target=follow, args=child) for child in children]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  print(json.dumps(found))


if __name__ == '__main__':
  run_phases()
