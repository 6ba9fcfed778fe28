from concurrent import futures
import logging
import time

import jax
import pytest

from mat_jax.errors import UserError
from mat_jax.runtime import cluster
from tests.support.fake_store import FakeStore


@pytest.fixture
def quick(monkeypatch):
  """Short times between looks, and until a process counts as dead."""
  for name, seconds in (('_POLL', 0.02), ('_LOG_EVERY', 0.1), ('_DEAD_AFTER', 0.6)):
    monkeypatch.setattr(cluster, name, seconds)


def _gather(store, index, value, name='read', count=3, delay=0.0):
  time.sleep(delay)
  return cluster.all_gather(name, value, store, index, count)


def test_all_processes_get_the_values_of_all_in_order(quick):
  store = FakeStore()
  with futures.ThreadPoolExecutor(3) as pool:
    for turn in range(2):  # of one name
      found = list(pool.map(lambda i, turn=turn: _gather(store, i, 10 * turn + i, delay=0.1 * i),
                            range(3)))
      assert found == [[10 * turn + i for i in range(3)]] * 3


def test_the_log_says_for_whom_they_wait(quick, caplog):
  store = FakeStore()
  with caplog.at_level(logging.INFO), futures.ThreadPoolExecutor(2) as pool:
    found = list(pool.map(lambda i: _gather(store, i, i, 'compile the step', 2, 0.3 * i), range(2)))
  assert found == [[0, 1]] * 2
  assert 'Waiting for process 1 to compile the step, for 0 s now.' in caplog.text


@pytest.mark.parametrize('key,reason', [
    ('alive/1', 'process 1 has shown no sign of life'), ('gone/1', 'process 1 has ended: 7')])
def test_a_process_ends_when_another_one_has_wherever_it_is(quick, monkeypatch, capsys, key, reason):
  monkeypatch.setattr(cluster, '_BEAT', 0.05)

  def leave(code):
    raise SystemExit(code)

  monkeypatch.setattr(cluster.sigterm, 'leave', leave)
  store = FakeStore()
  store.put(key, '7')
  with pytest.raises(SystemExit, match='2'):
    cluster._watch_others(store, 0)
  assert f'error: {reason}' in capsys.readouterr().err
  assert int(store.get('alive/0', 0)) > 3 or key == 'gone/1'


@pytest.mark.parametrize('ends', ['with signs of life', 'by itself'])
def test_a_process_goes_on_while_the_others_live(quick, monkeypatch, ends):
  """Until the connection is closed; an error of its own it has told already."""
  monkeypatch.setattr(cluster, '_BEAT', 0.05)
  store, turns = FakeStore(), iter(range(30))

  def beat(seconds):
    if (turn := next(turns, None)) is None:
      raise jax.errors.JaxRuntimeError('CANCELLED: the connection is closed')
    if ends == 'with signs of life':
      store.put('alive/1', str(turn))
    elif turn == 10:
      store.put('gone/0', 'photos does not exist')
      store.put('gone/1', 'photos does not exist')
    real_sleep(seconds)

  real_sleep = time.sleep
  monkeypatch.setattr(cluster.sigterm, 'leave', pytest.fail)
  monkeypatch.setattr(cluster.time, 'sleep', beat)
  with pytest.raises(jax.errors.JaxRuntimeError, match='closed'):
    cluster._watch_others(store, 0)


def test_one_process_waits_for_nobody():
  assert cluster.all_gather('read', 5) == [5]
  cluster.barrier('compile')


@pytest.mark.parametrize('error,code,reason,printed', [
    (None, 0, None, ''), (UserError('photos does not exist'), 2, 'photos does not exist',
                          'error: photos does not exist\n'),
    (KeyError('a mistake of ours'), 1, "KeyError: 'a mistake of ours'", 'Traceback')])
def test_all_processes_end_alike(quick, monkeypatch, capsys, error, code, reason, printed):
  store = FakeStore()
  store.put('left/1')
  store.put('gather/finish/1/1', '0')

  def leave(code):
    raise SystemExit(code)

  monkeypatch.setattr(cluster, 'KeyValueStore', lambda: store)
  monkeypatch.setattr(cluster.sigterm, 'leave', leave)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(SystemExit) as ended, cluster.ending_together():
    if error:
      raise error
  assert ended.value.code == code and store.get('gone/0', 0) == reason
  assert capsys.readouterr().err.startswith(printed)


def test_process_0_waits_for_the_others_to_leave(monkeypatch):
  left, store = [], FakeStore()
  monkeypatch.setattr(cluster.sigterm, 'leave', left.append)
  with futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(cluster.leave, 0, store, 0, 2)
    time.sleep(0.2)
    assert not left
    cluster.leave(5, store, 1, 2)
    first.result(10)
  assert left == [5, 0]


def test_on_one_process_errors_stay():
  with pytest.raises(UserError), cluster.ending_together():
    raise UserError('photos does not exist')
