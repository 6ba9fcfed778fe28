"""The calls out of a program, which say what beside its arithmetic a file may run.

A StableHLO custom call runs a function of the process by its name, among them one that calls a
Python object by its address. `jax.export` checks the names when it exports, but not when it reads.
"""

import re

# Checks of symbolic shapes, and the random numbers of GPUs; both are on JAX's list of targets
# that stay.
ALLOWED = ('shape_assertion', 'cu_threefry2x32_ffi', 'hip_threefry2x32_ffi')
_CALL = re.compile(r'custom_call(?: @([\w.$]+)\()?')


def foreign_calls(module: str) -> list[str]:
  """The custom calls of a program beside the `ALLOWED` ones.

  Args:
    module: text of a StableHLO module, as MLIR prints it.

  Returns:
    Names of their targets, sorted; '?' for one in another notation.
  """
  return sorted({target or '?' for target in _CALL.findall(module)} - set(ALLOWED))
