"""Packs the networks of a checkpoint into one small file.

  python -m convert.pack --checkpoint=runs/portraits --output=portraits.safetensors

The file holds the averaged generator and the discriminator in float16. It is given wherever a
checkpoint is: to `mat-jax inpaint --model`, `--config.eval.checkpoint`, `--config.init_from`.
"""

from typing import Any

from absl import flags

from mat_jax.checkpoints import packed
from mat_jax.checkpoints.reader import restore_ema, restore_networks
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line


def pack(checkpoint: str, output: str, with_discriminator: bool = True) -> None:
  """Packs a checkpoint.

  Args:
    checkpoint: a workdir, step directory or converted model.
    output: the file, NAME.safetensors.
    with_discriminator: whether it has the discriminator, for fine-tuning.

  Raises:
    UserError: there is no checkpoint, no discriminator in it, or the file cannot be written.
  """
  if not output.endswith(packed.SUFFIX):
    raise UserError(f'{output} does not end with {packed.SUFFIX}; give such a name')
  ema = restore_ema(checkpoint)
  fields: dict[str, Any] = {
      'ema_params': ema.variables['params'], 'ema_buffers': ema.variables['buffers']}
  if with_discriminator:
    networks = restore_networks(ema.path, ('d_params',)).networks
    if 'd_params' not in networks:
      raise UserError(f'{ema.path} has no trained discriminator; add --nodiscriminator')
    fields |= networks
  packed.write(output, packed.Packed(
      {'model': ema.model.to_dict(), 'step': ema.step, 'images_seen': ema.images_seen}, fields))


@exit_on_user_error
def main(argv: list[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  pack(values.checkpoint, values.output, values.discriminator)
  print(f'Packed {values.checkpoint} into {values.output}.')


if __name__ == '__main__':
  flags.DEFINE_string('checkpoint', None, 'Workdir, step directory or converted model.')
  flags.DEFINE_string('output', None, 'File to write, NAME.safetensors.')
  flags.DEFINE_bool('discriminator', True, 'Whether to pack the discriminator too.')
  command_line.run(main, ['checkpoint', 'output'], in_bucket=['checkpoint', 'output'])
