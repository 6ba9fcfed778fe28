"""Writes checkpoints as PyTorch state dicts, without PyTorch.

  python -m convert.to_torch --checkpoint=runs/wikiart --output=wikiart.pth

The official code loads the result strictly. So do IOPaint, and spandrel and the nodes of ComfyUI,
which have the same network of 512 px without the noise tensors: `--target=iopaint`.
"""

from collections.abc import Mapping
import os
from typing import Any

from absl import flags
import jax
import numpy as np

from convert import names, safetensors_files, saved_models
from convert.state_dicts import discriminator_state_dict, generator_state_dict
from convert.torch_files import torch_writer
from mat_jax.checkpoints import reader
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.nn import projected
from mat_jax.runtime import command_line
from mat_jax.runtime.storage import new_files

Tree = Mapping[str, Any]
StateDict = dict[str, np.ndarray]

TARGETS = ('official', 'iopaint')
_WRITERS = {'.pth': torch_writer.write_state_dict, '.pt': torch_writer.write_state_dict,
            '.safetensors': safetensors_files.write}
# What IOPaint builds before it loads a file.
_IOPAINT = {'resolution': 512, 'mapping_layers': 8, 'width': 1.0}


def convert_file(source: str, output: str, network: str = 'G_ema',
                 target: str = 'official') -> None:
  """Writes a network of a checkpoint as a PyTorch state dict.

  Args:
    source: a workdir, a converted, packed or saved model, or a step directory.
    output: the file, named .pth or .safetensors; one that exists is replaced.
    network: 'G_ema', 'G' or 'D'.
    target: 'official', or 'iopaint', which leaves the noise tensors out, also for spandrel and
      ComfyUI.

  Raises:
    UserError: the checkpoint lacks the network, or a file cannot be read or
      written.
  """
  suffix = os.path.splitext(output)[1]
  if suffix not in _WRITERS:
    raise UserError(f'{output} is not named .pth or .safetensors')
  if target == 'iopaint' and network == 'D':
    raise UserError('IOPaint has no discriminator; leave --network at G_ema')
  print(f'Reading {network} of {source}.', flush=True)
  variables, model = _restore(source, network)
  convert = discriminator_state_dict if network == 'D' else generator_state_dict
  state_dict = convert(variables)
  del variables  # the state dict is a copy
  if target == 'iopaint':
    state_dict = without_noise(state_dict)
    _warn_of_another_size(model)
  with new_files.new_file(output) as file:
    _WRITERS[suffix](file, state_dict)
  print(f'Wrote {output}: {len(state_dict)} tensors, float32.')


def without_noise(state_dict: StateDict) -> StateDict:
  """The state dict without its noise tensors; says what that changes."""
  strongest = max(float(np.abs(array).max()) for name, array in state_dict.items()
                  if name.endswith('.noise_strength'))
  if strongest:
    print(f'The noise that is left out has strengths up to {strongest:.2g}; results there lack it.')
  return {name: array for name, array in state_dict.items() if not name.endswith(names.NOISE)}


def _restore(source: str, network: str) -> tuple[Tree, Mapping[str, Any]]:
  """Variables of a network of a checkpoint, and its `config.model`."""
  if reader.is_saved_model(source):
    if network != 'G_ema':
      raise UserError(f'{source} is a saved model, which has G_ema alone; leave --network at G_ema')
    saved = saved_models.read_folder(source)
    return saved.variables, saved.model
  if network == 'G_ema':
    found = reader.restore_ema(source)
    return found.variables, found.model
  if network == 'G':
    start = reader.restore_networks(source, ('g_params', 'g_buffers'))
    networks = start.networks
    return {'params': networks['g_params'], 'buffers': networks['g_buffers']}, start.model
  start = reader.restore_networks(source, ('d_params',))
  if 'd_params' not in start.networks:
    raise UserError(f'{start.path} has no discriminator')
  # The published discriminator has no part on features.
  params = {name: tree for name, tree in start.networks['d_params'].items()
            if name != projected.PARAMS}
  return {'params': params}, start.model


def _warn_of_another_size(model: Mapping[str, Any]) -> None:
  other = [f'{field} {model.get(field)}' for field, value in _IOPAINT.items()
           if model.get(field) != value]
  if other:
    print(f'IOPaint, spandrel and ComfyUI build the network of {_IOPAINT["resolution"]} px with '
          f'{_IOPAINT["mapping_layers"]} mapping layers; this one has {", ".join(other)} and does '
          'not load there. IOPaint removes the file when it tries.')


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  jax.config.update('jax_platforms', 'cpu')  # leaves an accelerator to those who need it
  values = flags.FLAGS
  convert_file(values.checkpoint, values.output, values.network, values.target)


if __name__ == '__main__':
  # Here and not above, since other command lines that import this have their own.
  flags.DEFINE_string('checkpoint', None, 'Workdir, model or step directory to read.')
  flags.DEFINE_string('output', None, 'File to write, .pth or .safetensors.')
  flags.DEFINE_enum('network', 'G_ema', ['G_ema', 'G', 'D'], 'Network to write.')
  flags.DEFINE_enum('target', 'official', TARGETS,
                    'Who is to load it; iopaint (also spandrel, ComfyUI) leaves the noise tensors '
                    'out.')
  command_line.run(main, ['checkpoint', 'output'], in_bucket=['checkpoint', 'output'])
