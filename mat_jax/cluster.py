"""Joining the processes of a run, one on each host of a pod."""

import jax

from mat_jax.errors import UserError


def join(coordinator: str | None = None, num_processes: int | None = None,
         process_id: int | None = None) -> None:
  """Connects this process with the others; call before anything asks for devices.

  On a TPU pod, under SLURM and under Open MPI the arguments are found in the environment.
  It also starts the service through which a signal to one process reaches all of them.

  Args:
    coordinator: 'HOST:PORT' of process 0, the same everywhere.
    num_processes: how many there are.
    process_id: which of them this one is, from 0.

  Raises:
    UserError: an argument is missing and not found, or the others do not come.
  """
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  except (ValueError, TypeError, IndexError, RuntimeError) as error:
    reason = str(error).splitlines()[0].rstrip('.')
    raise UserError(f'this process cannot join the others ({reason}); start one on every host, '
                    'each with --coordinator=HOST:PORT of process 0, --num_processes and '
                    '--process_id') from error
