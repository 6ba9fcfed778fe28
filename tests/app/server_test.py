import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request

import numpy as np
from PIL import Image
import pytest

from mat_jax.app import server
from mat_jax.commands import app as command
from mat_jax.commands import main
from mat_jax.errors import UserError
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.options import InpaintOptions
from mat_jax.pictures import pictures
from mat_jax.pictures.pictures import Picture
from tests.app.conftest import MAX_UPLOAD
from tests.support import picture_files, small_generator
from tests.support.paths import ROOT


def _get(address, path):
  """Status and body of an answer, not through a proxy."""
  try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        address + path, timeout=30) as answer:
      return answer.status, answer.read()
  except urllib.error.HTTPError as error:
    return error.code, error.read()


@pytest.mark.parametrize('file', [
    '/etc/passwd', 'file:///etc/passwd', str(ROOT / 'pyproject.toml'), 'pyproject.toml', __file__])
def test_nothing_of_the_disk_is_served(address, file):
  status, body = _get(address, f'gradio_api/file={file}')
  assert status == 403 and b'root:' not in body and b'mat-jax' not in body


def test_nobody_is_told(address):
  status, body = _get(address, 'config')
  config = json.loads(body)
  assert status == 200
  assert not config['analytics_enabled'] and not config['run_history']
  assert b'fonts.googleapis' not in _get(address, '')[1] + _get(address, 'theme.css')[1]
  assert address.startswith('http://127.0.0.1:')


def test_a_picture_goes_through_the_page_as_a_file(address, tmp_path):
  client, layer = _client(address, tmp_path), tmp_path / 'layer.png'
  before = picture_files.noise(np.uint16, 3, 90, 60)
  image = str(tmp_path / 'scan.png')
  pictures.write_picture(image, Picture(before))
  drawn = np.zeros((90, 60, 4), np.uint8)
  drawn[20:30, 16:24] = 200
  Image.fromarray(drawn).save(layer)
  about = client.predict(_file(image), api_name='/load')[0]
  assert 'scan.png' in about and '16 bits' in about
  marks = [{'background': None, 'layers': [_file(str(layer))], 'composite': None}, None, 'auto', 1]
  mask = np.asarray(Image.open(_path(client.predict(*marks, api_name='/mask'), '_mask.png')))
  hole = np.zeros((90, 60), bool)
  hole[19:31, 15:25] = True
  np.testing.assert_array_equal(mask == 255, hole)
  answer = client.predict(*marks, 2, 5, True, 0.5, 'auto', 1.5, 2.0, 0, False, True, False,
                          api_name='/fill')
  path = _path(answer, '.png')
  seed = int(os.path.basename(path).removeprefix('scan_seed').removesuffix('.png'))
  expected = Inpainter(small_generator.checkpoint()).inpaint(
      before, ~hole, options=InpaintOptions(seed=seed, truncation_psi=0.5, seamless=False,
                                            texture=False))
  np.testing.assert_array_equal(pictures.read_picture(path).pixels, expected[0])
  assert 'scan_seed' in client.predict(api_name='/go_on')[0]


def test_mistakes_are_sentences_without_folders(address, tmp_path):
  from gradio_client.exceptions import AppError

  client = _client(address, tmp_path)
  nothing = [{'background': None, 'layers': [], 'composite': None}, None, 'auto', 0]
  with pytest.raises(AppError, match='there is no picture; load one first'):
    client.predict(*nothing, api_name='/mask')
  text = tmp_path / 'no<i>tes.png'
  text.write_text('no picture')
  about = client.predict(_file(str(text)), api_name='/load')[0]
  assert re.match("No picture: the picture '[^/]*tes.png' cannot be read", about)
  with pytest.raises(AppError, match='there is no picture; load one first'):
    client.predict(*nothing, api_name='/mask')
  client.predict(_file(picture_files.write(tmp_path / 'a.png', picture_files.noise())),
                 api_name='/load')
  with pytest.raises(AppError, match='nothing is marked'):
    client.predict(*nothing, api_name='/mask')


def test_uploads_are_limited(address):
  import httpx

  for size, status in [(MAX_UPLOAD // 2, 200), (MAX_UPLOAD + 1, 413)]:
    answer = httpx.post(f'{address}gradio_api/upload', files={'files': ('a.png', bytes(size))},
                        trust_env=False)
    assert answer.status_code == status


def _path(answer, ending):
  """The first file with a name that ends so."""
  return next(found for found in answer if isinstance(found, str) and found.endswith(ending))


def _client(address, folder):
  import gradio_client

  return gradio_client.Client(address, verbose=False, download_files=str(folder / 'down'),
                              analytics_enabled=False)


def _file(path):
  import gradio_client

  return gradio_client.handle_file(path)


def test_a_port_in_use_is_one_sentence():
  with socket.socket() as taken:
    taken.bind((server.HOST, 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f'port {port} cannot be used .* with --port'):
      command.run(main.parse(['mat-jax', 'app', f'--port={port}', '--model=there is none']))
  with pytest.raises(UserError, match='port 70000 cannot be used'):
    server.check_port(70000)


def test_without_the_extra_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(UserError, match=r"pip install 'mat-jax\[app\]'"):
    command.run(main.parse(['mat-jax', 'app']))
