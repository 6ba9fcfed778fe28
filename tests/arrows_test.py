"""Which room imports which: everything else fails."""

import ast
import os

from tests.support.paths import ROOT

# Room -> the rooms that it may import. `mat_jax` stands for `mat_jax.errors`.
ALLOWED = {
    'main': {'eval', 'convert', 'input_pipeline', 'training', 'training.step', 'inference',
             'runtime', 'mat_jax'},
    'eval': {'eval.classical', 'eval.metrics', 'eval.results', 'input_pipeline', 'training',
             'training.step', 'inference', 'checkpoints', 'nn', 'runtime', 'mat_jax'},
    'eval.classical': {'eval.metrics', 'input_pipeline', 'training.step', 'inference', 'runtime',
                       'mat_jax'},
    'eval.folders': {'eval.metrics', 'eval.results', 'input_pipeline', 'runtime', 'mat_jax'},
    'eval.report': {'eval.metrics', 'eval.results', 'runtime', 'mat_jax'},
    'eval.results': {'eval.metrics', 'checkpoints', 'runtime', 'mat_jax'},
    'eval.metrics': {'convert', 'training.step', 'features', 'runtime', 'mat_jax'},
    'convert': {'checkpoints', 'nn', 'features', 'ops', 'runtime', 'mat_jax'},
    'input_pipeline': {'runtime', 'mat_jax'},
    'training': {'training.step', 'checkpoints', 'inference', 'nn', 'features', 'ops', 'runtime',
                 'mat_jax'},
    'training.step': {'nn', 'features', 'ops', 'runtime', 'mat_jax'},
    'exporting': {'checkpoints', 'inference', 'nn', 'ops', 'runtime', 'mat_jax'},
    # The composition root of the command `mat-jax`. It asks for `convert` by name.
    'commands': {'app', 'exporting', 'inference', 'checkpoints', 'features', 'pictures', 'runtime',
                 'mat_jax'},
    'app': {'inference', 'pictures', 'runtime', 'mat_jax'},
    'inference': {'checkpoints', 'nn', 'ops', 'pictures', 'runtime', 'mat_jax'},
    'pictures': {'runtime', 'mat_jax'},
    'checkpoints': {'runtime', 'mat_jax'},
    'nn': {'ops', 'mat_jax'},
    'features': set(),
    'ops': set(),
    'runtime': {'runtime.storage', 'mat_jax'},
    'runtime.storage': {'mat_jax'},
    'mat_jax': set(),
}
_ROOMS_INSIDE = ('training.step', 'runtime.storage')
_TOP = ('mat_jax', 'convert', 'eval', 'input_pipeline')
_INSIDE = ('commands', 'app', 'training', 'exporting', 'inference', 'pictures', 'checkpoints', 'nn',
           'features', 'ops', 'runtime')


def _files():
  for top in _TOP:
    for folder, _, names in os.walk(os.path.join(ROOT, top)):
      yield from (os.path.relpath(os.path.join(folder, name), ROOT)
                  for name in names if name.endswith('.py'))
  yield 'main.py'


def _room(parts):
  """The room of the parts of a module's name or path; None outside of this project."""
  if parts[0] == 'mat_jax' and '.'.join(parts[1:3]) in _ROOMS_INSIDE:
    return '.'.join(parts[1:3])
  if parts[0] == 'mat_jax':
    return parts[1] if len(parts) > 1 and parts[1] in _INSIDE else 'mat_jax'
  if '.'.join(parts[:2]) in ALLOWED:
    return '.'.join(parts[:2])
  return parts[0] if parts[0] in (*_TOP, 'main') else None


def _imports(file):
  with open(os.path.join(ROOT, file), encoding='utf-8') as stream:
    tree = ast.parse(stream.read())
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{name.name}' for name in node.names)
    elif isinstance(node, ast.Import):
      yield from (name.name for name in node.names)


def _found():
  """Pairs (file, room that it imports), its own room left out."""
  pairs = set()
  for file in _files():
    own = _room(file.removesuffix('.py').split('/'))
    for module in _imports(file):
      room = _room(module.split('.'))
      if room not in (None, own):
        pairs.add((file, own, room))
  return pairs


def test_imports_go_one_way():
  assert {(file, room) for file, own, room in _found()
          if room not in ALLOWED[own] and not (room == 'runtime.storage' and 'runtime' in ALLOWED[own])
          } == set()


def test_the_allowed_ways_have_no_circle():
  left = {room: allowed - {room} for room, allowed in ALLOWED.items()}
  while left:
    ends = {room for room, allowed in left.items() if not allowed & left.keys()}
    assert ends, left
    left = {room: allowed for room, allowed in left.items() if room not in ends}
