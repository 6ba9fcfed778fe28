"""Serves the page on this computer alone."""

from collections.abc import Iterator
import contextlib
import os
import socket
from typing import Any

from mat_jax.errors import UserError
from mat_jax.inference.image_files import FileOptions
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.variants import Distance

HOST = '127.0.0.1'
PORT = 7860
_MAX_UPLOAD = 2**31  # bytes of a file


def check() -> None:
  """Raises UserError if Gradio is not installed."""
  try:
    import gradio  # noqa: F401
  except ImportError as error:
    raise UserError("the page needs the extra 'app'; install it with "
                    "pip install 'mat-jax[app]'") from error


def check_port(port: int) -> None:
  """Raises UserError for a port at which nothing can be served."""
  try:
    with socket.socket() as found:
      # Else a port would count as taken for a minute after its last use.
      found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      found.bind((HOST, port))
  except (OSError, OverflowError) as error:
    reason = error.strerror if isinstance(error, OSError) else 'there are ports up to 65535'
    raise UserError(f'port {port} cannot be used ({reason}); choose another one '
                    'with --port') from error


@contextlib.contextmanager
def served(inpainter: Inpainter, distance: Distance, folder: str, port: int = PORT,
           files: FileOptions | None = None) -> Iterator[str]:
  """Serves the page while its `with` block runs.

  Nothing of the disk is served but what is in `folder`: the pictures that visitors loaded, and
  what was made of them.

  Args:
    inpainter: the model.
    distance: between completions.
    folder: for all files, without others in it.
    port: of the address 127.0.0.1.
    files: the limit of pixels.

  Yields:
    The address.

  Raises:
    UserError: Gradio is not installed, or the port is in use.
  """
  check()
  check_port(port)
  folder = os.path.realpath(folder)
  with _environment(folder):
    from mat_jax.app import page

    blocks = page.build(inpainter, distance, folder, files or FileOptions())
    try:
      yield _launch(blocks, port, folder)
    finally:
      blocks.close(verbose=False)


def _launch(blocks: Any, port: int, root: str) -> str:
  import gradio as gr

  from mat_jax.app import layout

  # Fonts of the system: Gradio's own would be looked for in the network.
  fonts = ('system-ui', 'sans-serif'), ('ui-monospace', 'monospace')
  theme = gr.themes.Default(primary_hue='pink', font=fonts[0], font_mono=fonts[1]).set(
      body_text_color_subdued='*neutral_600', block_info_text_color='*neutral_600')
  _, address, _ = blocks.launch(
      server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
      inbrowser=False, allowed_paths=[root], max_file_size=_MAX_UPLOAD, ssr_mode=False,
      mcp_server=False, pwa=False, enable_monitoring=False, run_history=False, footer_links=[],
      theme=theme, css=layout.CSS)
  return address


@contextlib.contextmanager
def _environment(root: str) -> Iterator[None]:
  """Settings of Gradio that it takes from the environment alone, or asks for there first."""
  own = {
      'GRADIO_TEMP_DIR': root, 'GRADIO_EXAMPLES_CACHE': os.path.join(root, 'examples'),
      'GRADIO_ANALYTICS_ENABLED': 'False', 'HF_HUB_DISABLE_TELEMETRY': '1',
      # It asks itself whether it answers, which must not go through a proxy.
      'no_proxy': ','.join(filter(None, (os.environ.get('no_proxy'), HOST)))}
  before = {name: os.environ.get(name) for name in own}
  os.environ.update(own)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        os.environ.pop(name, None)
      else:
        os.environ[name] = value
