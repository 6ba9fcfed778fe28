"""Shared by the command lines: parsing of flags, messages about mistakes, clean exit."""

from collections.abc import Callable, Collection
import contextlib
import logging as python_logging
import signal
import sys
import warnings

from absl import app, flags, logging
import ml_collections

from mat_jax.errors import EXIT_CODE, UserError
from mat_jax.runtime import sigterm
from mat_jax.runtime.storage import new_files, remote_paths

# What absl and ml_collections raise for flags that do not exist or do not fit.
_MISTAKES = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, UserError)
# JAX opens this folder itself, and knows buckets.
_MAY_BE_REMOTE = 'compilation_cache'


def parse_flags(argv: list[str], required: list[str],
                in_bucket: Collection[str] = ()) -> list[str]:
  """Parses the command line; a mistake in it is one sentence and exit code 2.

  Args:
    argv: the program and its arguments.
    required: names of the flags that have to be given.
    in_bucket: names of the flags, and of fields as 'config.FIELD', that may be in buckets.

  Returns:
    What is left of `argv`.
  """
  try:
    flags.mark_flags_as_required(required)
    left = flags.FLAGS(argv)
    _refuse_remote_paths([f'--{name}' for name in in_bucket])
    return left
  except _MISTAKES as error:
    print(f'error: {_sentence(error)}', file=sys.stderr)
    sys.exit(EXIT_CODE)
  except SystemExit:
    sys.exit(0)  # absl ends --help with 1


def _refuse_remote_paths(in_bucket: Collection[str]) -> None:
  for name in flags.FLAGS:
    if flags.FLAGS[name].present and name != _MAY_BE_REMOTE:
      value = flags.FLAGS[name].value
      if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
      remote_paths.refuse(f'--{name}', value, in_bucket)


def _sentence(error: Exception) -> str:
  match error.args:
    case (KeyError(args=(str(text),)),):  # how ml_collections says that a config lacks a field
      name, *hints = text.splitlines()
      return ' '.join([f'the config has no field {name}.', *hints, 'See configs/base.py'])
    case (str(text), *_):  # not str(error), which would quote the text of a KeyError
      return text.splitlines()[0]
  return str(error).splitlines()[0]


def run(main: Callable[[list[str]], None], required: list[str],
        in_bucket: Collection[str] = ()) -> None:
  """Runs `main` with the parsed command line, logging nothing below warnings.

  SIGTERM ends the process at once, with exit code 143 and nothing half-written.

  Args:
    main: function of what is left of the command line.
    required: names of the flags that have to be given.
    in_bucket: see `parse_flags`.
  """
  set_up_logging(logging.WARNING)
  sys.unraisablehook = _unraisable
  # Of Orbax too, when a write fails while others have not begun.
  warnings.filterwarnings('ignore', message='coroutine .* was never awaited')
  with ended_by_sigterm():
    app.run(main, flags_parser=lambda argv: parse_flags(argv, required, in_bucket))


def ended_by_sigterm() -> contextlib.AbstractContextManager[None]:
  """In its `with` block, SIGTERM ends the process at once, and nothing half-written stays.

  Not by an exception, which is lost where Python happens to be in a destructor.
  """
  return sigterm.calls(_end)


def _end() -> None:
  new_files.discard_unfinished()
  sigterm.leave(128 + signal.SIGTERM)


def _unraisable(found: 'sys.UnraisableHookArgs') -> None:
  """Suppresses what Orbax's writing threads raise after another of them has failed."""
  if str(found.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(found)


def set_up_logging(verbosity: int) -> None:
  """Logs from `verbosity` on, without what libraries tell their own developers.

  With INFO, that is what Orbax logs of every checkpoint, and JAX of devices that are not there.
  With WARNING also the tracebacks of Orbax's threads beside an error that it raises, and what TFDS
  says of its settings.
  """
  logging.set_verbosity(verbosity)
  is_wanted = _is_wanted_in_a_run if verbosity == logging.INFO else _is_wanted
  logging.get_absl_handler().addFilter(is_wanted)


def _is_wanted_in_a_run(record: python_logging.LogRecord) -> bool:
  chatty = 'orbax' in record.pathname or 'xla_bridge' in record.pathname
  return record.levelno > python_logging.INFO or not chatty


def _is_wanted(record: python_logging.LogRecord) -> bool:
  chatty = any(name in record.pathname for name in ('orbax', 'tensorflow_datasets', 'apache_beam'))
  return not chatty and record.name != 'asyncio'
