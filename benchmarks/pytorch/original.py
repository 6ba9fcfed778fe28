"""Times our implementation and the published PyTorch code, on the same cores, in turn.

  python -m benchmarks.pytorch.original --original=MAT --python=VENV/bin/python --task=training

needs a clone of the repository fenglinglwb/MAT and an interpreter with torch, timm, scipy and
requests; neither is part of this project. --task is 'inference' (one pass of the generator over
--batch_size images) or 'training' (Gmain and Dmain with their steps of Adam, VGG19 as the
perceptual network, ours with the EMA update too). Each side is a process of its own with
random weights; while one works the other waits. The first round, in which ours compiles, is not
counted. The last line is JSON: median seconds of a round, how many times faster ours is (of the
medians, and the least of any round), and the largest memory of both processes.
"""

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from absl import app, flags

from mat_jax.errors import UserError, exit_on_user_error

_ORIGINAL = flags.DEFINE_string('original', None, 'Clone of the published code.', required=True)
_PYTHON = flags.DEFINE_string('python', None, 'Interpreter that has torch.', required=True)
_TASK = flags.DEFINE_enum('task', 'inference', ['inference', 'training'], 'What to measure.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 1, 'Images.')
_RESOLUTION = flags.DEFINE_enum('resolution', '256', ['256', '512'], 'Side of the images.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds that count, at most 14.')
_CACHE = flags.DEFINE_string('cache', '', 'Folder of the compilation cache; none by default.')


class Side:
  """A process that does its task when told."""

  def __init__(self, interpreter: str, module: list[str], task: dict[str, Any]):
    self._command = [interpreter, *module, json.dumps(task)]
    self._process = subprocess.Popen(
        self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True)
    self._read()

  def run(self) -> dict[str, float]:
    """Does the task once: `seconds` it took, `peak_mib` of memory so far."""
    assert self._process.stdin is not None
    self._process.stdin.write('\n')
    self._process.stdin.flush()
    return json.loads(self._read())

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate()

  def _read(self) -> str:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise UserError(f'{" ".join(self._command[:3])} ended with exit code '
                      f'{self._process.wait()}; what it printed says why')
    return line


def _measure(sides: dict[str, Side], rounds: int) -> dict[str, list[dict[str, float]]]:
  found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
  for number in range(rounds + 1):
    for name, side in sides.items():
      result = side.run()
      print(f'{number} {name}: {result["seconds"]:.2f} s, {result["peak_mib"]:.0f} MiB',
            flush=True)
      if number:
        found[name].append(result)
  return found


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  if not os.path.isdir(os.path.join(_ORIGINAL.value, 'networks')):
    raise UserError(f'{_ORIGINAL.value} is no clone of fenglinglwb/MAT: it has no networks/')
  if not 1 <= _ROUNDS.value <= 14:
    raise UserError(f'--rounds is {_ROUNDS.value}; give 1 to 14, the sixteenth step has R1')
  task = {'task': _TASK.value, 'batch_size': _BATCH_SIZE.value,
          'resolution': int(_RESOLUTION.value), 'threads': os.cpu_count(), 'cache': _CACHE.value,
          'folder': os.path.abspath(_ORIGINAL.value)}
  worker = os.path.join(os.path.dirname(__file__), 'original_torch.py')
  sides = {'ours': Side(sys.executable, ['-m', 'benchmarks.pytorch.original_jax'], task),
           'original': Side(_PYTHON.value, [worker], task)}
  found = _measure(sides, _ROUNDS.value)
  for side in sides.values():
    side.close()
  seconds = {name: [result['seconds'] for result in results] for name, results in found.items()}
  ratios = [a / b for a, b in zip(seconds['original'], seconds['ours'], strict=True)]
  medians = {name: statistics.median(values) for name, values in seconds.items()}
  print(json.dumps({
      **{key: task[key] for key in ('task', 'batch_size', 'resolution')},
      'cores': os.cpu_count(),
      'seconds': {name: round(value, 3) for name, value in medians.items()},
      'times_faster': round(medians['original'] / medians['ours'], 2),
      'times_faster_least': round(min(ratios), 2),
      'peak_mib': {name: round(results[-1]['peak_mib']) for name, results in found.items()}}))


if __name__ == '__main__':
  app.run(main)
