"""Time, memory and the one line that a tick prints."""

import dataclasses
import resource
import sys
import time

import jax


@dataclasses.dataclass(frozen=True)
class Timing:
  """Speed since the last tick.

  Attributes:
    elapsed: seconds since the start of this session.
    tick_seconds: seconds of the tick.
    sec_per_kimg: seconds for a thousand images.
    images_per_sec: its inverse, times 1000.
    remaining: estimated seconds until the end.
  """

  elapsed: float
  tick_seconds: float
  sec_per_kimg: float
  images_per_sec: float
  remaining: float


class Clock:
  """Measures ticks."""

  def __init__(self, step: int, total: int, batch_size: int):
    """Starts at `step` of `total` steps of `batch_size` images."""
    self._start = self._last = time.monotonic()
    self._step, self._total, self._batch_size = step, total, batch_size

  def tick(self, step: int) -> Timing:
    """The timing of the steps since the last call."""
    now = time.monotonic()
    seconds = max(now - self._last, 1e-9)
    images = max(1, (step - self._step) * self._batch_size)
    self._last, self._step = now, step
    per_image = seconds / images
    return Timing(
        elapsed=now - self._start, tick_seconds=seconds, sec_per_kimg=1000 * per_image,
        images_per_sec=1 / per_image,
        remaining=(self._total - step) * self._batch_size * per_image)

  def skip(self) -> None:
    """Leaves out the time since the last tick: it went into a snapshot, not into steps."""
    self._last = time.monotonic()


def duration(seconds: float) -> str:
  """'2d 03h', '3h 05m', '5m 12s' or '12s'."""
  seconds = round(seconds)
  minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
  if days:
    return f'{days}d {hours % 24:02d}h'
  if hours:
    return f'{hours}h {minutes % 60:02d}m'
  return f'{minutes}m {seconds % 60:02d}s' if minutes else f'{seconds}s'


def memory() -> dict[str, float]:
  """Peak memory in GB: of the first device where it tells, and of the process."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found = {'host': peak / (1e9 if sys.platform == 'darwin' else 1e6)}
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    found['device'] = stats['peak_bytes_in_use'] / 1e9
  return found


def line(tick: int, kimg: float, timing: Timing) -> str:
  """The status line of a tick."""
  used = ', '.join(f'{name} {gigabytes:.1f} GB' for name, gigabytes in memory().items())
  return (f'tick {tick}  kimg {kimg:.1f}  time {duration(timing.elapsed)}  '
          f'sec/tick {timing.tick_seconds:.1f}  sec/kimg {timing.sec_per_kimg:.1f}  '
          f'images/s {timing.images_per_sec:.2f}  '
          f'memory {used}  ETA {duration(timing.remaining)}')
