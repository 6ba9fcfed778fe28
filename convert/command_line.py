"""What the command lines of this package share."""

from collections.abc import Callable
import logging as python_logging
import sys

from absl import app, flags, logging

from mat_jax.errors import EXIT_CODE


def run(main: Callable[[list[str]], None], required: list[str]) -> None:
  """Runs `main` with the parsed command line; a mistake in it is exit code 2.

  Args:
    main: function of what is left of the command line.
    required: names of the flags that have to be given.
  """
  def parse_flags(argv: list[str]) -> list[str]:
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().addFilter(_is_wanted)
    try:
      flags.mark_flags_as_required(required)
      return flags.FLAGS(argv)
    except flags.Error as error:
      print(f'error: {str(error).splitlines()[0]}', file=sys.stderr)
      sys.exit(EXIT_CODE)
    except SystemExit:
      sys.exit(0)  # absl ends --help with 1

  app.run(main, flags_parser=parse_flags)


def _is_wanted(record: python_logging.LogRecord) -> bool:
  """Keeps back the tracebacks with which Orbax's threads accompany an error that it raises."""
  return 'orbax' not in record.pathname and record.name != 'asyncio'
