"""Serves a page to draw holes on pictures and to fill them, for browsers on this computer alone."""

import argparse
import contextlib
import threading

import jax

from mat_jax.app import server
from mat_jax.commands import inpaint
from mat_jax.inference.image_files import FileOptions
from mat_jax.inference.inpainter import Inpainter
from mat_jax.runtime import compilation_cache
from mat_jax.runtime.storage import new_files

HELP = 'a page to draw holes on'
# Arguments that may be addresses in buckets.
IN_BUCKET = ('model',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  add = parser.add_argument
  add('--model', default='small', help='a workdir, a converted, packed or saved model, a step '
      'directory, or the small model that is shipped')
  add('--port', type=int, default=server.PORT, help='of the address 127.0.0.1')
  add('--max_pixels', type=int, default=FileOptions().max_pixels, help='limit of width x height')


def run(values: argparse.Namespace) -> None:
  """Runs the command until it is interrupted.

  Raises:
    UserError: the extra is not installed, the port is in use, or there is no model.
  """
  server.check()
  server.check_port(values.port)
  compilation_cache.enable(None, jax.process_index())
  inpainter = Inpainter.from_checkpoint(values.model)
  files = FileOptions(max_pixels=values.max_pixels)
  with (contextlib.suppress(KeyboardInterrupt),
        new_files.temporary_directory('mat_jax_') as folder,
        server.served(inpainter, inpaint.lpips(), folder, values.port, files) as address):
    inpaint.say(f'The page is at {address} (Ctrl-C ends it).')
    threading.Event().wait()
