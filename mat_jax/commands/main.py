"""The command `mat-jax` and its subcommands."""

import argparse
import sys
from typing import Any

from absl import logging

from mat_jax.commands import app, export, inpaint
from mat_jax.errors import EXIT_CODE, exit_on_user_error
from mat_jax.runtime import command_line
from mat_jax.runtime.storage import remote_paths

_COMMANDS: dict[str, Any] = {'inpaint': inpaint, 'export': export, 'app': app}


class _Parser(argparse.ArgumentParser):
  """A parser whose mistakes are one sentence and exit code 2, as everywhere here."""

  def error(self, message: str) -> Any:
    print(f'error: {message}; {self.prog} --help says more', file=sys.stderr)
    sys.exit(EXIT_CODE)


def parse(argv: list[str]) -> argparse.Namespace:
  """Parses the command line; `argv[0]` is the program."""
  parser = _Parser(prog='mat-jax', description='Inpainting with MAT.', allow_abbrev=False)
  commands = parser.add_subparsers(title='commands', dest='command', required=True,
                                   parser_class=_Parser)
  for name, module in _COMMANDS.items():
    own = commands.add_parser(name, help=module.HELP, description=module.__doc__, allow_abbrev=False,
                              formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    module.add_arguments(own)
  return parser.parse_args(argv[1:])


@exit_on_user_error
def _run(values: argparse.Namespace) -> None:
  for name, value in vars(values).items():
    remote_paths.refuse(name, value, _COMMANDS[values.command].IN_BUCKET)
  _COMMANDS[values.command].run(values)


def main() -> None:
  """The entry point of the console script."""
  command_line.set_up_logging(logging.WARNING)
  with command_line.ended_by_sigterm():
    _run(parse(sys.argv))


if __name__ == '__main__':
  main()
