"""Fills the holes of a folder of pictures with classical methods.

  python -m eval.classical --images=photos --masks=masks --output=filled --methods=telea+biharmonic

writes filled/telea/NAME.png and filled/biharmonic/NAME.png, for `python -m eval.folders`.
"""

from absl import flags

from eval.classical import folders, methods
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line


@exit_on_user_error
def main(argv: list[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  chosen = methods.load(values.methods, '--methods')
  if not chosen:
    raise UserError('--methods is empty; give --methods=telea, or several joined by +')
  folders.fill_folder(values.images, values.masks, values.output, chosen)


if __name__ == '__main__':
  flags.DEFINE_string('images', None, 'An image file, or a folder of them.')
  flags.DEFINE_string('masks', None, 'A mask file, or a folder with a mask of the same stem for '
                      'every image; white is kept.')
  flags.DEFINE_string('output', None, 'Folder for the results, OUTPUT/METHOD/NAME.png.')
  flags.DEFINE_string('methods', 'telea+navier_stokes', 'telea, navier_stokes, biharmonic, '
                      'shiftmap, fsr, patchmatch, or several joined by +.')
  command_line.run(main, ['images', 'masks', 'output'], in_bucket=['images', 'masks', 'output'])
