"""The command `python -m eval.report --workdir=A --baseline=B`; see `report`."""

from absl import flags

from eval.report.report import make_report
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line


@exit_on_user_error
def main(argv: list[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  print(make_report(values.workdir, values.baseline, values.output))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder that has been evaluated with --mode=eval.')
  flags.DEFINE_string('baseline', '', 'Another such folder to compare with, of the model before '
                      'fine-tuning, say.')
  flags.DEFINE_string('output', '', "Folder to write into; '' takes WORKDIR/report.")
  command_line.run(main, ['workdir'], in_bucket=['workdir', 'baseline', 'output'])
