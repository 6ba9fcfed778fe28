"""User errors: mistakes in the input, reported in one sentence.

A `UserError` is a wrong path, field, file or shape: its message names the thing
and what to do about it. Command lines print it without a traceback and exit
with code 2. Everything else is a programming error and keeps its traceback.
"""

from collections.abc import Callable
import sys
from typing import Any

EXIT_CODE = 2


class UserError(Exception):
  """A mistake in the user's input; `str(error)` is one complete sentence."""


def exit_on_user_error(main: Callable[..., Any]) -> Callable[..., Any]:
  """Wraps a command line's `main` so that a `UserError` ends it with code 2."""

  def wrapped(*args, **kwargs):
    try:
      return main(*args, **kwargs)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(EXIT_CODE)

  return wrapped
