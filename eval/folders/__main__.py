"""The command `python -m eval.folders --real=A --fake=B`; see `compare`."""

import dataclasses
from typing import Any

from absl import flags

from eval.folders.compare import Options, compare, make_folder, write
from eval.metrics import feature_networks
from eval.results import markdown
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line


@exit_on_user_error
def main(argv: list[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  if values.output:
    make_folder(values.output)
  options: dict[str, Any] = {
      'weights': {name: values[f'{name}_weights'].value for name in feature_networks.WITH_FILES},
      **{field.name: values[field.name].value for field in dataclasses.fields(Options)
         if field.name != 'weights'}}
  found, table = compare(Options(**options))
  try:
    if values.output:
      write(found, table, values.output)
  finally:  # a full disk or a closed pipe should not cost both
    print(markdown.markdown(found))


if __name__ == '__main__':
  flags.DEFINE_string('real', None, 'Folder of real images.')
  flags.DEFINE_string('fake', None, 'Folder of results: NAME, or NAME_0, NAME_1, ..., of NAME.')
  flags.DEFINE_string('masks', '', 'Folder of masks of the same names; white is kept.')
  flags.DEFINE_string('baseline', '', "Folder of another system's results to compare with.")
  flags.DEFINE_string('others', '', 'Folder of more real images, for the ceilings of IDS.')
  flags.DEFINE_string('features', feature_networks.AUTO,
                      'inception, vgg16, dinov2, clip, several joined '
                      "by commas, auto, or '' for no distances; see configs/base.py.")
  flags.DEFINE_string('lpips', 'alex+vgg', "alex, vgg, both joined by +, or ''.")
  for name in feature_networks.WITH_FILES:
    flags.DEFINE_string(f'{name}_weights', '', f'File of weights for {name} features.')
  flags.DEFINE_integer('batch_size', 16, 'Images of a batch, over all devices.', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'Seed of the bootstrap intervals.')
  flags.DEFINE_string('output', '', 'Folder for metrics.json, metrics.md and per_image.csv.')
  command_line.run(main, ['real', 'fake'],
                   in_bucket=['real', 'fake', 'masks', 'baseline', 'others', 'output'])
