"""Suppresses what Orbax's threads print beside an error that it raises."""

from collections.abc import Iterator
import contextlib
import gc
import logging as python_logging
import sys
import time
import traceback

from absl import logging

# Threads of a read or write that failed are heard of at shorter intervals, until they end.
_SILENCE_SECONDS = 0.5


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps tracebacks of Orbax's threads from the screen.

  An error of Orbax passes, once the threads that go on after it have ended.
  """
  loggers = (logging.get_absl_logger(), python_logging.getLogger('asyncio'))
  hook = sys.unraisablehook
  heard = 0.0

  def is_wanted(record: python_logging.LogRecord) -> bool:
    origin = record.getMessage() if record.name == 'asyncio' else record.pathname
    return record.levelno < python_logging.ERROR or 'orbax' not in origin

  def unraisable(found: 'sys.UnraisableHookArgs') -> None:
    nonlocal heard
    if str(found.exc_value) == 'Event loop is closed':
      heard = time.monotonic()
    else:
      hook(found)

  for logger in loggers:
    logger.addFilter(is_wanted)
  sys.unraisablehook = unraisable
  try:
    yield
  except Exception as error:
    heard = time.monotonic()
    while time.monotonic() < heard + _SILENCE_SECONDS:
      time.sleep(0.05)
    # Tasks whose errors nobody asks for complain when they are collected.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    raise
  finally:
    sys.unraisablehook = hook
    for logger in loggers:
      logger.removeFilter(is_wanted)
