import json
import os
import shutil

import pytest

from mat_jax.checkpoints import items, reader, step_directories
from mat_jax.checkpoints.step_directories import RemovedError
from mat_jax.errors import UserError
from mat_jax.runtime.storage import disk
from mat_jax.runtime.storage.disk import DamagedError, UnreachableError
from tests.support.tiny_state import MODEL, save_steps


def _make_step(workdir, step, **meta):
  """A step directory with a meta, and something in the place of its arrays."""
  folder = workdir / 'checkpoints' / str(step)
  for item in ('meta', 'ema'):
    (folder / item).mkdir(parents=True)
  (folder / 'ema' / 'arrays').write_text('')
  (folder / 'meta' / 'metadata').write_text(json.dumps({'model': MODEL, 'step': step, **meta}))
  return folder


def test_finds_a_step_from_workdir_folder_and_step(tmp_path):
  for step in (4, 12):
    expected = str(_make_step(tmp_path, step))
  for path in (str(tmp_path), os.path.join(tmp_path, 'checkpoints'), expected):
    assert step_directories.find_step(path) == expected


@pytest.mark.parametrize('damage', ['meta', 'ema'])
def test_an_incomplete_step_is_passed_over(tmp_path, caplog, damage):
  expected, newest = (_make_step(tmp_path, step) for step in (4, 12))
  shutil.rmtree(newest / damage)
  assert step_directories.find_step(str(tmp_path)) == str(expected)
  assert f'{newest} is incomplete' in caplog.text
  shutil.rmtree(expected / damage)
  with pytest.raises(UserError, match='none of the checkpoints in .* is complete'):
    step_directories.find_step(str(tmp_path))


def test_an_empty_folder_is_no_checkpoint(tmp_path):
  for path in (str(tmp_path), f'{tmp_path}/best'):
    with pytest.raises(UserError, match=f'no checkpoint in {tmp_path};'):
      reader.restore_ema(path)


@pytest.mark.parametrize('meta', [
    {}, {'best': None, 'metrics': {'psnr': 20.0}},
    {'best': {'metric': 'psnr', 'higher_is_better': True}, 'metrics': {'ssim': 0.5}}])
def test_without_a_metric_none_is_the_best(tmp_path, meta):
  _make_step(tmp_path, 4, **meta)
  with pytest.raises(UserError, match='leave out /best'):
    step_directories.find_step(f'{tmp_path}/best')


def test_a_workdir_may_be_called_best(tmp_path):
  expected = _make_step(tmp_path / 'best', 4)
  assert step_directories.find_step(f'{tmp_path}/best') == str(expected)


def test_the_newest_checkpoint_says_what_is_best(tmp_path):
  low, high = ({'metric': 'l1', 'higher_is_better': better} for better in (False, True))
  first = _make_step(tmp_path, 4, best=high, metrics={'l1': 0.1})
  _make_step(tmp_path, 8, best=high, metrics={'l1': 0.3})
  _make_step(tmp_path, 12, best=low, metrics={'l1': 0.2})
  assert step_directories.best_step(str(tmp_path)) == str(first)


def test_an_older_step_is_not_taken_for_one_that_the_disk_does_not_give_out(tmp_path):
  _make_step(tmp_path, 4)
  file = _make_step(tmp_path, 12) / 'meta' / 'metadata'
  file.unlink()
  file.symlink_to(file)
  for path in (str(tmp_path), f'{tmp_path}/best'):
    with pytest.raises(UnreachableError, match=f'{file} cannot be read .* start again'):
      step_directories.find_step(path)


def test_a_run_that_replaces_its_only_step_meanwhile_has_one(tmp_path, monkeypatch):
  old, listed, calls = _make_step(tmp_path, 4), disk.listed, []

  def listed_before_the_run_goes_on(folder):
    names = listed(folder)
    if names == ['4'] and len(calls) < 2:
      calls.append(folder)
      if len(calls) == 2:
        _make_step(tmp_path, 8)
        shutil.rmtree(old)
    return names

  monkeypatch.setattr(disk, 'listed', listed_before_the_run_goes_on)
  assert step_directories.find_step(str(tmp_path)) == str(tmp_path / 'checkpoints' / '8')


class _Run:
  """Goes on when the arrays of a step are read for the first time."""

  def __init__(self, monkeypatch, *actions):
    self._actions, self._read = list(actions), items.read_arrays
    monkeypatch.setattr(reader, 'read_arrays', self._go_on)

  def _go_on(self, path, like):
    if self._actions:
      self._actions.pop(0)()
    return self._read(path, like)


@pytest.mark.parametrize('read', [
    lambda path: reader.restore_ema(path).step,
    lambda path: int(os.path.basename(reader.restore_networks(path).path))])
def test_a_step_that_is_removed_while_it_is_read_is_looked_for_again(tmp_path, monkeypatch, read):
  save_steps(tmp_path, 2, 4)
  folder = tmp_path / 'checkpoints'
  _Run(monkeypatch, lambda: (folder / '4').rename(tmp_path / '4.removed'),
       lambda: save_steps(tmp_path, 6, max_to_keep=1))
  assert read(str(tmp_path)) == 6


def test_the_best_that_is_removed_while_it_is_read_is_looked_for_again(tmp_path, monkeypatch):
  best = {'metric': 'psnr', 'higher_is_better': True}
  save_steps(tmp_path, 2, 4)
  folder = tmp_path / 'checkpoints'
  for step, psnr in ((2, 20.0), (4, 10.0)):
    file = folder / str(step) / 'meta' / 'metadata'
    file.write_text(json.dumps(
        json.loads(file.read_text()) | {'best': best, 'metrics': {'psnr': psnr}}))
  _Run(monkeypatch, lambda: shutil.rmtree(folder / '2'))
  assert reader.restore_ema(f'{tmp_path}/best').step == 4


def test_a_step_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
  save_steps(tmp_path, 2)
  step = tmp_path / 'checkpoints' / '2'

  def replace():
    step.rename(tmp_path / '2.replaced')
    save_steps(tmp_path, 2)
    raise DamagedError('a file of the one before is missing')

  _Run(monkeypatch, replace)
  assert reader.restore_ema(str(tmp_path)).step == 2


def test_a_given_step_that_is_removed_while_it_is_read_is_named(tmp_path, monkeypatch):
  save_steps(tmp_path, 2, 4)
  step = tmp_path / 'checkpoints' / '2'
  _Run(monkeypatch, lambda: shutil.rmtree(step))
  with pytest.raises(RemovedError, match=f'{step} was removed while it was read; give the workdir'):
    reader.restore_ema(str(step))
  with pytest.raises(RemovedError):
    reader.restore_ema_of(str(step))
  assert not step_directories.is_last(str(step))


def test_a_folder_that_loses_its_parts_is_being_removed(tmp_path, monkeypatch):
  save_steps(tmp_path, 2)
  step = tmp_path / 'checkpoints' / '2'
  monkeypatch.setattr(disk, 'DELAYS', (0.01, 7.0))
  wait = disk.time.sleep
  monkeypatch.setattr(disk.time, 'sleep', lambda seconds: (
      shutil.rmtree(step) if seconds == 7.0 else wait(seconds)))
  _Run(monkeypatch, lambda: shutil.rmtree(step / 'ema' / 'd'))
  with pytest.raises(RemovedError):
    reader.restore_ema_of(str(step))


def test_a_damaged_step_that_stays_is_not_being_removed(tmp_path):
  save_steps(tmp_path, 2)
  shutil.rmtree(tmp_path / 'checkpoints' / '2' / 'ema' / 'd')
  with pytest.raises(UserError, match='ema cannot be read .* use an earlier one') as caught:
    reader.restore_ema(str(tmp_path))
  assert type(caught.value) is UserError
