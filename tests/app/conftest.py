import contextlib
import socket

import pytest

from mat_jax.app import server
from mat_jax.inference import variants
from mat_jax.inference.inpainter import Inpainter
from tests.support import small_generator

MAX_UPLOAD = 2**20


@pytest.fixture(scope='package')
def address(tmp_path_factory):
  """The page, served with a tiny model."""
  pytest.importorskip('gradio', reason='the extra app is not installed')
  with contextlib.closing(socket.socket()) as found:
    found.bind((server.HOST, 0))
    port = found.getsockname()[1]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(server, '_MAX_UPLOAD', MAX_UPLOAD)
    folder = str(tmp_path_factory.mktemp('page'))
    inpainter = Inpainter(small_generator.checkpoint())
    with server.served(inpainter, variants.mean_difference, folder, port) as found:
      yield found
