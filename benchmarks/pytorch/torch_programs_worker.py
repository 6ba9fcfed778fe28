"""The side of the other programs in `benchmarks.pytorch.torch_programs`.

Runs in an interpreter that has them, takes its task as JSON on the command line, and imports
nothing of mat_jax. Each program loads the file by its own code, draws its own randomness, and
completes one picture; what it drew is recorded, and everything is written to the .npz file that
the task names.
"""

from collections.abc import Callable
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from typing import Any

import numpy as np
from PIL import Image
import safetensors.torch
import torch

Task = dict[str, str]
Arrays = dict[str, Any]


class KeepMasks:
  """Records the keep masks, which these programs draw by dropout that is always on."""

  def __init__(self) -> None:
    self.drawn: list[np.ndarray] = []
    self._dropout = torch.nn.functional.dropout
    torch.nn.functional.dropout = self._recorded

  def _recorded(self, x: torch.Tensor, p: float = 0.5, training: bool = True,
                inplace: bool = False) -> torch.Tensor:
    result = self._dropout(x, p, training, inplace)
    if training and p:
      self.drawn.append((result != 0).float().numpy())
    return result


def run_iopaint(task: Task, found: Arrays) -> dict[str, torch.Tensor]:
  """`iopaint run`, the command that fills picture files."""
  iopaint = importlib.import_module('iopaint')
  mat = importlib.import_module('iopaint.model.mat')
  forward, state = mat.MAT.forward, {}

  def recorded(self, image: np.ndarray, mask: np.ndarray, config: Any) -> np.ndarray:
    found['z'] = self.z.numpy()
    state.update(self.model.state_dict())
    return forward(self, image, mask, config)

  mat.MAT.forward = recorded
  output = os.path.join(task['folder'], 'iopaint')
  sys.argv = ['iopaint', 'run', '--model=mat', f'--model-dir={task["models"]}', '--device=cpu',
              f'--image={task["image"]}', f'--mask={task["mask"]}', f'--output={output}']
  with contextlib.suppress(SystemExit):
    iopaint.entry_point()
  with Image.open(os.path.join(output, os.path.basename(task['image']))) as image:
    found['result'] = np.asarray(image)
  return state


def run_spandrel(task: Task, found: Arrays) -> dict[str, torch.Tensor]:
  """The loader of ComfyUI, chaiNNer and others, with its additional architectures."""
  spandrel = importlib.import_module('spandrel')
  spandrel.MAIN_REGISTRY.add(*importlib.import_module('spandrel_extra_arches').EXTRA_REGISTRY)
  descriptor = spandrel.ModelLoader().load_from_file(task['file']).eval()
  _complete(descriptor, descriptor.model, task, found)
  return descriptor.model.model.state_dict()


def run_comfyui(task: Task, found: Arrays) -> dict[str, torch.Tensor]:
  """What the node 'Load Inpaint Model' does with a MAT file; it has the network of its own."""
  sys.path.insert(0, task['nodes'])
  model = importlib.import_module('mat').load(safetensors.torch.load_file(task['file'])).eval()
  torch.manual_seed(0)  # as the node 'Inpaint (using Model)'
  _complete(model, model, task, found)
  return model.model.state_dict()


def _complete(call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], model: Any, task: Task,
              found: Arrays) -> None:
  """Completes the picture by a model of values from 0 to 1, and masks with 1 in the hole."""
  with Image.open(task['image']) as image, Image.open(task['mask']) as mask:
    inputs = [torch.from_numpy(np.asarray(picture, np.float32) / 255)
              for picture in (image, mask)]
  with torch.inference_mode():
    result = call(inputs[0].permute(2, 0, 1)[None], inputs[1][None, None])
  found['z'] = model.z.numpy()
  found['result'] = result[0].permute(1, 2, 0).numpy()


_PROGRAMS = {'iopaint': run_iopaint, 'spandrel': run_spandrel, 'comfyui': run_comfyui}


def main() -> None:
  task = json.loads(sys.argv[1])
  torch.set_num_threads(os.cpu_count() or 1)
  masks = KeepMasks()
  found: Arrays = {}
  state = _PROGRAMS[task['program']](task, found)
  found['first'], found['second'] = masks.drawn
  wanted = safetensors.torch.load_file(task['file'])
  unused = sorted(name for name in wanted.keys() | state.keys()
                  if name not in state or name not in wanted
                  or not torch.equal(wanted[name], state[name]))
  np.savez(task['output'], **found)
  versions = {name: importlib.metadata.version(name)
              for name in ('torch', 'iopaint', 'spandrel', 'spandrel-extra-arches')
              if importlib.util.find_spec(name.replace('-', '_'))}
  print(json.dumps({'tensors': len(state), 'different': unused, 'versions': versions}), flush=True)


if __name__ == '__main__':
  main()
