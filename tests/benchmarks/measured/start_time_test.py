"""The clock of a start: it reads the log, stops the run, and says how one ended that did not begin."""

import sys

import pytest

from benchmarks.measured import start_time
from mat_jax.errors import UserError

_RUN = '''
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for line in {lines!r}:
  print('I1127 12:00:00 x.py:1]', line, file=sys.stderr, flush=True)
  time.sleep(0.3)
time.sleep(60)
'''
_LOG = ['JAX 0.10.2 on cpu, process 1 of 1.', 'Training on 28 images, 1 devices, batch 2.',
        'Compiled the training step in 20 s.', 'tick 1  kimg 0.0  time 1s']


def test_milestones_are_read_off_the_log_and_the_run_is_stopped():
  found = start_time.start([sys.executable, '-c', _RUN.format(lines=_LOG)])
  times = list(found.values())
  assert list(found) == ['imported', 'state', 'first_step', 'reported']
  assert times == sorted(times) and 0.8 < times[3] - times[0] + 0.1 and times[3] < 30


@pytest.mark.slow
def test_a_run_of_the_tiny_configuration_starts_and_goes_on():
  found = start_time.measure('configs/tiny.py', 4)
  assert list(found) == ['cold', 'warm']
  for milestones in found.values():
    assert list(milestones) == ['imported', 'state', 'first_step', 'reported']
  assert found['warm']['first_step'] < found['cold']['first_step']


def test_a_run_that_ends_too_early_is_one_sentence():
  words = [sys.executable, '-c', 'import sys; sys.exit("error: no such config")']
  with pytest.raises(UserError, match='exit code 1: error: no such config'):
    start_time.start(words)
