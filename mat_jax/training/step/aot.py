"""Ahead-of-time compilation of the functions of a run.

Runs of equal networks and settings in one process share the compiled functions. Several processes
wait for each other between compiling a function and running it: collectives time out, or hang
silently, when one process arrives minutes after another.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import functools
import gc
import sys
import time
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh

from mat_jax.runtime import cluster, compilation_cache, sharding
from mat_jax.training.step import train_state, train_step
from mat_jax.training.step.gradients import Context
from mat_jax.training.step.objectives import Networks
from mat_jax.training.step.settings import Training
from mat_jax.training.step.train_state import TrainState

# Of a chip's fast memory (VMEM), what one fusion may take: half of it, where XLA would take 16 MiB.
# Larger tiles overlap less, and fill the matrix units for longer.
_VMEM_KIB = {'TPU v5 lite': 64 * 1024}


class AotFunction:
  """A jitted function for arguments of one shape, compiled ahead of its first call.

  The memory that compiling took is thus free again when the function runs.
  """

  def __init__(self, jitted: jax.stages.Wrapped, name: str):
    """Nothing is traced yet.

    Args:
      jitted: the function.
      name: description for the log, such as 'the training step'.
    """
    self._jitted, self._name = jitted, name
    self._compiled: jax.stages.Compiled | None = None

  def trace(self, *arguments: Any) -> jax.stages.Traced:
    """Traces the function for arguments or their shapes."""
    with _without_garbage_collection():
      return self._jitted.trace(*arguments)

  def lower(self, *arguments: Any) -> jax.stages.Lowered:
    """Lowers the function for arguments or their shapes."""
    with _without_garbage_collection():
      return self._jitted.trace(*arguments).lower()

  def compile(self, *arguments: Any) -> jax.stages.Compiled:
    """Compiles the function for arguments or their shapes."""
    with compilation_cache.written_by_every_process():
      return self.lower(*arguments).compile()

  def prepare(self, *arguments: Any) -> jax.stages.Compiled:
    """Compiles the function unless it is compiled, and waits until all processes have done so.

    Args:
      *arguments: arrays, or their shapes with the shardings that a call will have.
    """
    if self._compiled is None:
      begun = time.monotonic()
      self._compiled = self.compile(*arguments)
      _release_memory()
      logging.info('Compiled %s in %.0f s.', self._name, time.monotonic() - begun)
      cluster.barrier(f'compile {self._name}')
    return self._compiled

  def __call__(self, *arguments: Any) -> Any:
    return self.prepare(*arguments)(*arguments)


def across_processes(jitted: jax.stages.Wrapped, name: str) -> Callable[..., Any]:
  """A function that several processes compile before any of them runs it.

  Args:
    jitted: the function; on several processes, called with arguments of one shape only.
    name: description for the log.

  Returns:
    An `AotFunction`, or on one process the function itself.
  """
  return AotFunction(jitted, name) if jax.process_count() > 1 else jitted


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
  """Turns garbage collection off: it takes a quarter of the time of tracing, to free nothing."""
  enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if enabled:
      gc.enable()


def _release_memory() -> None:
  """Returns memory that glibc keeps after it was freed, 2 GB after compiling a step."""
  if sys.platform == 'linux' and hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
    libc.malloc_trim(0)


@functools.lru_cache(maxsize=8)
def compiled_step(networks: Networks, settings: Training, mesh: Mesh,
                  freeze_generator: bool = False) -> AotFunction:
  """The training step with its shardings; the state is donated.

  State, features and losses are replicated, the batch is sharded over the devices.
  """
  replicated, by_batch = sharding.replicated(mesh), sharding.by_batch(mesh)
  context = Context(networks, settings, mesh)
  step, options = train_step.make_train_step(context, freeze_generator), compiler_options(mesh)
  return AotFunction(jax.jit(
      step, in_shardings=(replicated, replicated, by_batch), out_shardings=replicated,
      donate_argnums=0, compiler_options=options),
                     'the discriminator\'s step' if freeze_generator else 'the training step')


def compiler_options(mesh: Mesh) -> dict[str, str | int]:
  """XLA's options for a step on these devices."""
  device = mesh.devices.flat[0]
  platform = device.platform
  if platform == 'tpu':
    return tpu_options(device.device_kind)
  if platform != 'cpu':
    return {}
  # The default scheduler favours operations that can run concurrently, which is of no use on a
  # few cores, and keeps 1.5 times as many feature maps in memory.
  return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
          # YNNPACK is no faster, and makes loading from the compilation cache slow.
          'xla_cpu_experimental_ynn_fusion_type': '',
          # LLVM's later passes take a fifth of the compile time and do not speed up a step.
          'xla_backend_optimization_level': 1}


def tpu_options(kind: str) -> dict[str, str | int]:
  """XLA's options for a step on TPUs of a kind, `jax.Device.device_kind`."""
  # With fewer than eight images, the TPU's sublanes, XLA would split each into strips and
  # reassemble them before each filter: three times the bytes at 512 px with four images.
  options: dict[str, str | int] = {'xla_tpu_run_space_to_batch': False,
                                   'xla_tpu_run_space_to_batch_on_new_platforms': False}
  if kind in _VMEM_KIB:
    options['xla_tpu_scoped_vmem_limit_kib'] = _VMEM_KIB[kind]
  return options


@functools.lru_cache(maxsize=4)
def compiled_create(networks: Networks, settings: Training,
                    mesh: Mesh) -> jax.stages.Wrapped:
  """The jitted initialisation: key -> fresh state on every device."""
  def create(key: jax.Array) -> TrainState:
    return train_state.create(key, networks.generator, networks.discriminator, settings,
                              networks.projected)

  return jax.jit(create, out_shardings=sharding.replicated(mesh))
