"""A Cloud Storage server on loopback: the emulator gcp-storage-emulator, and what it lacks.

That is what TensorStore needs of the JSON API: generations in answers and preconditions on them,
the range of names of a listing, and empty objects; several requests at a time; and failures to
order. https://cloud.google.com/storage/docs/json_api/v1/objects
"""

from collections.abc import Iterator
import contextlib
import functools
import http.server
import json
import threading
import time
import urllib.parse

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

BUCKET = 'bucket'


class BucketServer:
  """The server and its contents.

  Attributes:
    url: of the server.
    requests: method and name of the object of each request, in order.
    status: of the answers while requests are refused.
    refused: how many were.
  """

  def __init__(self):
    self.storage = Storage(use_memory_fs=True)
    # It would write all that it knows of all objects, with every one of them.
    self.storage._write_config_to_file = lambda: None
    buckets.create_bucket(BUCKET, self.storage)
    self.lock = threading.RLock()
    self.requests: list[tuple[str, str]] = []
    self.refused = 0
    self.refuse()
    self._http = _HttpServer(('127.0.0.1', 0), functools.partial(_Handler, self))
    self.url = f'http://127.0.0.1:{self._http.server_address[1]}'

  @contextlib.contextmanager
  def running(self) -> Iterator['BucketServer']:
    """Serves in its `with` block."""
    thread = threading.Thread(target=self._http.serve_forever, daemon=True)
    thread.start()
    try:
      yield self
    finally:
      self._http.shutdown()
      self._http.server_close()
      thread.join()

  def names(self, prefix: str = '') -> list[str]:
    """Names of the objects that begin so, sorted."""
    with self.lock:
      return sorted(name for name in self.storage.objects.get(BUCKET, {})
                    if name.startswith(prefix))

  def read(self, name: str) -> bytes:
    """The contents of an object."""
    with self.lock:
      return self.storage.get_file(BUCKET, name)

  def write(self, name: str, data: bytes) -> None:
    """Makes or replaces an object."""
    with self.lock:
      # Generations are made of the time in nanoseconds.
      resource = objects._make_object_resource(
          self.url, BUCKET, name, 'application/octet-stream', str(len(data)))
      resource = objects._checksums(data, resource)
      self.storage.create_file(BUCKET, name, data, resource)

  def remove(self, name: str) -> None:
    """Removes an object."""
    with self.lock:
      self.storage.delete_file(BUCKET, name)

  def generation(self, name: str) -> str:
    """The generation of an object, '0' for none."""
    with self.lock:
      try:
        return self.storage.get_file_obj(BUCKET, name)['generation']
      except NotFound:
        return '0'

  def refuse(self, seconds: float = 0.0, requests: int = 0, status: int = 503) -> None:
    """Answers all requests with a status for so long, and so many more after that."""
    self._refuse_until, self._refuse_requests = time.monotonic() + seconds, requests
    self.status = status

  def is_refusing(self) -> bool:
    """Whether a request is answered with that status now; counts those."""
    refuses = time.monotonic() < self._refuse_until
    if not refuses and self._refuse_requests:
      self._refuse_requests -= 1
      refuses = True
    self.refused += refuses
    return refuses


class _HttpServer(http.server.ThreadingHTTPServer):
  """A server that many connections may wait for, the default being 5."""

  request_queue_size = 128


class _Handler(server.RequestHandler):
  """Answers a request, with the emulator's storage."""

  wbufsize = 1 << 16  # headers and body in one packet, which is acknowledged at once

  def __init__(self, owner: BucketServer, *args):
    self._owner = owner
    super().__init__(owner.storage, *args)

  def log_message(self, *args):
    pass

  def do_GET(self):
    self._serve('GET')

  def do_POST(self):
    self._serve('POST')

  def do_DELETE(self):
    self._serve('DELETE')

  def _serve(self, method: str) -> None:
    owner, url = self._owner, urllib.parse.urlsplit(self.path)
    query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
    name = query.get('name') or urllib.parse.unquote(url.path.partition('/o/')[2])
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    owner.requests.append((method, name))
    with owner.lock:
      if owner.is_refusing():
        self._fail(owner.status)
      elif f'/b/{BUCKET}/' not in url.path:
        self._fail(404)
      elif not name:
        self._list(query)
      elif not self._is_met(name, query):
        self._fail(412)
      elif method == 'POST':
        owner.write(name, body)
        self._answer(200, json.dumps(self.storage.get_file_obj(BUCKET, name)).encode())
      elif owner.generation(name) == '0':
        self._fail(404)
      elif method == 'DELETE':
        owner.remove(name)
        self._answer(204)
      else:
        self._answer(200, owner.read(name), {'x-goog-generation': owner.generation(name)})

  def _is_met(self, name: str, query: dict[str, str]) -> bool:
    found = self._owner.generation(name)
    return (query.get('ifGenerationMatch', found) == found
            and query.get('ifGenerationNotMatch') != found)

  def _list(self, query: dict[str, str]) -> None:
    start, end = query.get('startOffset', ''), query.get('endOffset', '\U0010ffff')
    found, _ = self.storage.get_file_list(BUCKET, query.get('prefix'))
    items = [one for one in found if start <= one['name'] < end]
    self._answer(200, json.dumps({'kind': 'storage#objects', 'items': items}).encode())

  def _fail(self, status: int) -> None:
    self._answer(status, json.dumps({'error': {'code': status}}).encode())

  def _answer(self, status: int, body: bytes = b'', headers: dict[str, str] | None = None) -> None:
    self.send_response(status)
    for key, value in (headers or {}).items():
      self.send_header(key, value)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)
