import time

import pytest

from mat_jax.training import status


@pytest.mark.parametrize('seconds,expected', [
    (3.4, '3s'), (312, '5m 12s'), (11_100, '3h 05m'), (183_600, '2d 03h')])
def test_durations(seconds, expected):
  assert status.duration(seconds) == expected


def test_clock_and_line():
  clock = status.Clock(step=10, total=30, batch_size=4)
  time.sleep(0.05)
  timing = clock.tick(20)
  assert 0.05 <= timing.tick_seconds < 5
  assert timing.sec_per_kimg == pytest.approx(timing.tick_seconds / 40 * 1000)
  assert timing.images_per_sec == pytest.approx(1000 / timing.sec_per_kimg)
  assert timing.remaining == pytest.approx(timing.tick_seconds)
  line = status.line(2, 0.08, timing)
  assert all(word in line for word in ('tick 2', 'kimg 0.1', 'sec/kimg', 'GB', 'ETA'))
