"""Finding, downloading and checking published weights, with a server of our own."""

import dataclasses
import fnmatch
import functools
import hashlib
import http.server
import os
import threading

import pooch
import pytest

from convert import weight_files
from mat_jax.errors import UserError

_CONTENT = bytes(range(256)) * 5000


class _Quiet(http.server.SimpleHTTPRequestHandler):

  def log_message(self, *args):
    pass


@pytest.fixture
def served(tmp_path, monkeypatch):
  """A published file on a local server, an empty cache; gives (cache folder, served folder)."""
  folder, cache = tmp_path / 'served', tmp_path / 'cache'
  folder.mkdir()
  (folder / 'net-1234.pth').write_bytes(_CONTENT)
  server = http.server.ThreadingHTTPServer(
      ('127.0.0.1', 0), functools.partial(_Quiet, directory=str(folder)))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setattr(pooch, 'os_cache', lambda name: cache / name)
  monkeypatch.setitem(weight_files.PUBLISHED, 'net', weight_files.PublishedFile(
      'net', '*-1234.pth', f'http://127.0.0.1:{server.server_port}/net-1234.pth',
      (hashlib.sha256(_CONTENT).hexdigest()[:8],), 'no licence'))
  yield cache / 'mat-jax', folder
  server.shutdown()
  server.server_close()


def test_downloads_once(served, capfd):
  cache, folder = served
  path = weight_files.fetch('net')
  assert path == str(cache / 'net-1234.pth')
  assert (cache / 'net-1234.pth').read_bytes() == _CONTENT
  assert '100%' in capfd.readouterr().err, 'a progress bar'
  (folder / 'net-1234.pth').unlink()
  assert weight_files.fetch('net') == path


def test_a_file_put_there_under_another_name_is_found(served):
  cache, folder = served
  cache.mkdir(parents=True)
  (folder / 'net-1234.pth').rename(cache / 'my-net-1234.pth')
  assert weight_files.fetch('net') == str(cache / 'my-net-1234.pth')


def test_a_damaged_download_leaves_nothing(served):
  cache, folder = served
  (folder / 'net-1234.pth').write_bytes(_CONTENT[:-1])
  with pytest.raises(UserError, match='is not net-1234.pth: its sha256 starts with'):
    weight_files.fetch('net')
  assert os.listdir(cache) == []


def test_a_damaged_file_in_the_cache_is_named(served):
  cache, _ = served
  cache.mkdir(parents=True)
  (cache / 'net-1234.pth').write_bytes(b'something else')
  with pytest.raises(UserError, match=f'{cache}/net-1234.pth is not .*download it again'):
    weight_files.fetch('net')


def test_a_failed_download_says_what_to_do(served):
  cache, folder = served
  (folder / 'net-1234.pth').unlink()
  url = weight_files.PUBLISHED['net'].url
  with pytest.raises(UserError, match=rf'\(HTTPError\); get {url} elsewhere and put it at '
                     f'{cache}/net-1234.pth'):
    weight_files.fetch('net')
  assert os.listdir(cache) == []


def test_a_cache_that_cannot_be_made(served, monkeypatch, tmp_path):
  (tmp_path / 'file').write_text('')
  monkeypatch.setattr(pooch, 'os_cache', lambda name: tmp_path / 'file' / name)
  with pytest.raises(UserError, match='file/mat-jax cannot be created: Not a directory'):
    weight_files.fetch('net')


def test_one_of_several(tmp_path, monkeypatch):
  path = tmp_path / 'weights'
  path.write_bytes(_CONTENT)
  start = hashlib.sha256(_CONTENT).hexdigest()[:8]
  for network, starts in (('vgg16', ('00000000',)), ('vgg19', ('11111111', start))):
    published = dataclasses.replace(weight_files.PUBLISHED[network], sha256_starts=starts)
    monkeypatch.setitem(weight_files.PUBLISHED, network, published)
  assert weight_files.identify(str(path), ['vgg16', 'vgg19']) == 'vgg19'
  with pytest.raises(UserError, match=f'starts with {start}, expected 00000000; download'):
    weight_files.identify(str(path), ['vgg16'])


def test_the_registry_is_consistent():
  for network, file in weight_files.PUBLISHED.items():
    assert file.network == network and file.licence
    assert any(start in file.name for start in file.sha256_starts)
    assert fnmatch.fnmatch(file.name, file.pattern)
