"""Work that threads do a little ahead of where it is asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import os
from typing import TypeVar

_AHEAD = 4  # items a thread

_In = TypeVar('_In')
_Out = TypeVar('_Out')


def in_order(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
  """Yields function(item) for all items, computed by threads a little ahead."""
  threads = os.cpu_count() or 1
  with futures.ThreadPoolExecutor(threads) as pool:
    waiting: deque[futures.Future[_Out]] = deque()
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > _AHEAD * threads:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for task in waiting:
        task.cancel()
