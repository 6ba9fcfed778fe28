"""What the command lines of this package share."""

from collections.abc import Callable
import logging as python_logging
import signal
import sys

from absl import app, flags, logging

from mat_jax.errors import EXIT_CODE


def run(main: Callable[[list[str]], None], required: list[str]) -> None:
  """Runs `main` with the parsed command line; a mistake in it is exit code 2.

  SIGTERM ends the program as an exception does, so that nothing half-written stays.

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

  sys.unraisablehook = _unraisable
  signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
  app.run(main, flags_parser=parse_flags)


def _unraisable(found: 'sys.UnraisableHookArgs') -> None:
  """Keeps back what Orbax's writing threads raise after another of them has failed."""
  if str(found.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(found)


def _is_wanted(record: python_logging.LogRecord) -> bool:
  """Keeps back the tracebacks with which Orbax's threads accompany an error that it raises."""
  return 'orbax' not in record.pathname and record.name != 'asyncio'
