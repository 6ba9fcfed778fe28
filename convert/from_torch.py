"""Converts PyTorch checkpoints of MAT.

  python -m convert.from_torch --input=CelebA-HQ_256.pkl --output=models/celebahq256

The result is a folder that `main.py` evaluates and inpaints with (`--workdir` or
`--config.eval.checkpoint`, `--config.inpaint.checkpoint`) and trains from
(`--config.init_from`). It takes the official pickles, `.pth` and `.safetensors`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os

from absl import flags
import jax

from convert.architecture import StateDict, discriminator_from, generator_from
from convert.state_dicts import Module, Tree, discriminator_variables, generator_variables
from convert.torch_files import torch_reader
from mat_jax.checkpoints import items, step_directories
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.nn import sizes
from mat_jax.nn.generator import Generator
from mat_jax.runtime import command_line
from mat_jax.runtime.storage import disk, new_files, staging


@dataclasses.dataclass(frozen=True)
class _Converted:
  """A network of the file: its module, and a row for the table."""

  module: Module
  row: tuple[str, ...]


class _Source:
  """The networks of a file, read and converted one at a time.

  Args:
    path: the file.
    wanted: networks to convert; None takes all that are there.
    title: what to call the file.

  Attributes:
    names: networks to convert, in the order of the file.
    done: what was converted, by network.
  """

  def __init__(self, path: str, wanted: Sequence[str] | None, title: str):
    found = torch_reader.network_names(path)
    for name in wanted or ():
      if name not in found:
        raise UserError(f'{path} has no network {name!r}, only {", ".join(found)}')
    self.names = [name for name in found if not wanted or name in wanted]
    if not {'G', 'G_ema'} & set(self.names):
      raise UserError(f'{path}: a generator is needed, G or G_ema, not only '
                      f'{", ".join(self.names)}')
    self.done: dict[str, _Converted] = {}
    self._path, self._title = path, title

  def variables(self, name: str) -> Tree:
    """Variables of a network, as JAX arrays."""
    print(f'Reading {name} of {self._title}.', flush=True)
    state_dict = torch_reader.read_networks(self._path, [name])[name].state_dict
    module: Module
    try:
      if name == 'D':
        module, variables = discriminator_from(state_dict), discriminator_variables(state_dict)
      else:
        module, variables = generator_from(state_dict), generator_variables(state_dict)
      for other in self.done.values():
        _check_same(other.module, module)
    except UserError as error:
      raise UserError(f'{self._path}, network {name}: {error}') from error
    self.done[name] = _Converted(module, _row(name, module, variables, state_dict))
    del state_dict  # the next line makes another copy
    return jax.device_put(variables)


def _check_same(first: Module, second: Module) -> None:
  """Raises UserError unless both networks fit together."""
  fields = ['resolution', 'label_dim']
  if isinstance(first, Generator) and isinstance(second, Generator):
    fields.append('mapping_layers')
  for field in fields:
    if getattr(first, field) != getattr(second, field):
      raise UserError(f'its {field} is {getattr(second, field)}, another network of the file has '
                      f'{getattr(first, field)}')
  sides = [4 << i for i in range(first.resolution.bit_length() - 2)]
  first_channels, second_channels = (
      [sizes.channels(side, module.width) for side in sides] for module in (first, second))
  if first_channels != second_channels:
    raise UserError(f'its width is {second.width}, another network of the file has {first.width}')


def _row(name: str, module: Module, variables: Tree, state_dict: StateDict) -> tuple[str, ...]:
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
  layers = str(module.mapping_layers) if isinstance(module, Generator) else '-'
  dtypes = ', '.join(sorted({str(array.dtype) for array in state_dict.values()}))
  return (name, f'{parameters:,}', str(module.resolution), layers,
          f'{len(state_dict)} tensors, {dtypes}')


def convert_file(source: str, output: str, networks: Sequence[str] | None = None) -> None:
  """Converts a PyTorch checkpoint and prints what was read.

  Args:
    source: an official pickle, a `torch.save` file or a `.safetensors` file.
    output: folder to create.
    networks: which to convert, of 'G', 'D' and 'G_ema'; None takes all.

  Raises:
    UserError: a file cannot be read, does not fit, or cannot be written.
  """
  relative = os.path.join(step_directories.FOLDER, '0')
  with (new_files.new_directory(output, os.path.join(relative, step_directories.META)) as folder,
        staging.local_copy(source) as file):
    reader = _Source(file, networks, source)
    step = os.path.join(folder, relative)
    average = reader.variables('G_ema' if 'G_ema' in reader.names else 'G')
    _write_meta(folder, step, source, reader)
    _save(step, 'ema', {'ema_params': average['params'], 'ema_buffers': average['buffers']})
    if {'G', 'G_ema'} <= set(reader.names):
      del average
      average = reader.variables('G')
    trained = {'g_params': average['params'], 'g_buffers': average['buffers']}
    if 'D' in reader.names:
      trained['d_params'] = reader.variables('D')['params']
    _save(step, 'networks', trained)
  print(_report(reader))
  print(f'Wrote {output}.')


def _write_meta(folder: str, step: str, source: str, reader: _Source) -> None:
  """The step directory with its `meta`, and the same for humans beside it."""
  (converted,) = reader.done.values()
  module = converted.module
  model = {'resolution': module.resolution, 'mapping_layers': module.mapping_layers,
           'width': module.width, 'dtype': 'auto'}
  if module.label_dim:
    model['label_dim'] = module.label_dim
  meta = {'model': model, 'step': 0, 'images_seen': 0, 'networks': reader.names,
          'source': os.path.basename(source)}
  items.write_meta(step, meta)
  with open(os.path.join(folder, 'config.json'), 'x', encoding='utf-8') as file:
    json.dump({name: meta[name] for name in ('model', 'networks', 'source')}, file, indent=2)
    file.write('\n')


def _save(step: str, item: str, trees: Mapping[str, Tree]) -> None:
  try:
    items.check_space(step, trees)
    items.write_item(os.path.join(step, item), trees)
  except ValueError as error:  # how a failed write arrives from below Orbax
    fault = disk.classify(error)
    if not fault.is_system:
      raise
    raise OSError(fault.reason) from error


def _report(reader: _Source) -> str:
  """The table of what was read, and what a user should know about it."""
  rows: list[tuple[str, ...]] = [('network', 'parameters', 'resolution', 'mapping layers', 'read')]
  rows += [reader.done[name].row for name in reader.names]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
           for row in rows]
  if 'D' not in reader.names:
    lines.append('No discriminator was read: it will start fresh when training from this.')
  if 'G_ema' not in reader.names:
    lines.append('No G_ema was read: G takes its place.')
  elif 'G' not in reader.names:
    lines.append('No G was read: G_ema takes its place.')
  labels = next(iter(reader.done.values())).module.label_dim
  if labels:
    lines.append(f'The networks take labels of {labels} classes, for which main.py has no input; '
                 'convert.to_torch can write them back.')
  return '\n'.join(lines)


@exit_on_user_error
def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  jax.config.update('jax_platforms', 'cpu')  # leaves an accelerator to those who need it
  convert_file(flags.FLAGS.input, flags.FLAGS.output, flags.FLAGS.networks)


if __name__ == '__main__':
  # Here and not above, since other command lines that import this have their own.
  flags.DEFINE_string('input', None, 'PyTorch file: .pkl, .pth or .safetensors.')
  flags.DEFINE_string('output', None, 'Folder to create.')
  flags.DEFINE_list('networks', None, 'Networks to convert, of G, D and G_ema; all by default.')
  command_line.run(main, ['input', 'output'], in_bucket=['input', 'output'])
