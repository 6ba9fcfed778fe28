"""A key-value store of threads, instead of that of several processes."""

import threading


class FakeStore:
  """In place of `cluster.KeyValueStore`."""

  def __init__(self):
    self._values, self._changed = {}, threading.Condition()

  def put(self, key, value=''):
    with self._changed:
      self._values[key] = value
      self._changed.notify_all()

  def get(self, key, seconds):
    with self._changed:
      if not self._changed.wait_for(lambda: key in self._values, seconds):
        return None
      return self._values[key]

  def list(self, folder):
    with self._changed:
      return {key.rsplit('/', 1)[1]: value for key, value in self._values.items()
              if key.startswith(folder + '/')}

  def count(self, key):
    with self._changed:
      self._values[key] = self._values.get(key, 0) + 1
      return self._values[key]
