"""Of `benchmarks.measured.ablations`: names of runs, the table, and two runs of the tiny model."""

import json
import subprocess
import sys

import pytest

from benchmarks.measured import ablations
from configs import portraits_small
from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from eval.results import record
from eval.results.record import Group, Record
from mat_jax.errors import UserError
from tests.support.paths import ROOT


def test_runs_of_the_command_line():
  runs = ablations.parse_runs(['as it is:', 'Freeze-D 3: train.freeze_d_blocks=3 augment.pipeline='])
  assert runs == {'as it is': {},
                  'Freeze-D 3': {'train.freeze_d_blocks': '3', 'augment.pipeline': ''}}
  assert ablations.folder_name('gamma x 1/4') == 'gamma-x-1-4'


def test_words_of_the_config():
  assert ablations.config_words_of(
      ['--config', 'configs/tiny.py', '--workdir=x', '--config.train.remat', '--run=a: seed=1',
       '--config.seed', '3']) == [
           '--config', 'configs/tiny.py', '--config.train.remat', '--config.seed', '3']


@pytest.mark.parametrize('texts, message', [
    (['no colon'], 'not of the form'), ([': train.remat=True'], 'not of the form'),
    (['a: remat'], 'not of the form'), (['a 1:', 'A/1: train.remat=True'], 'twice')])
def test_runs_that_cannot_be(texts, message):
  with pytest.raises(UserError, match=message):
    ablations.parse_runs(texts)


def test_standard_runs_change_fields_that_there_are():
  config = portraits_small.get_config()
  runs = ablations.standard_runs(config)
  first, *others = runs.values()
  assert not first and all(others)
  for settings in others:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(settings)
    assert changed.to_dict() != config.to_dict()
  assert runs['gamma x 4']['train.r1_gamma'] == 16 * runs['gamma x 1/4']['train.r1_gamma']


def _done(workdir, name, lpips, kd, difference, p):
  folder = workdir / name
  (folder / 'eval').mkdir(parents=True)
  differences = {'MAT - mean colour': {'lpips_alex': Summary(-0.1, -0.2, -0.05, 40, 0, 0)}}
  if difference is not None:
    differences['MAT - baseline'] = {'lpips_alex': difference}
  group = Group(40, 320, {'MAT': {'lpips_alex': Summary(lpips, lpips - 0.01, lpips + 0.01, 40, 0, 0),
                                  'psnr_hole': Summary(17.5, 17.0, 18.0, 40, 0, 0)}},
                differences, {'MAT': {'kd_vgg16': Distance(kd, None, None, 40, 320, 512)}})
  record.write(Record('MAT', 8, 1.0, 'test', 8, 0, {}, {'large': group}, {}), str(folder / 'eval'))
  rows = [*[{'signs/real': 0.9}] * 6, {'augment/probability': p, 'signs/real': 0.2}, {'signs/real': 0.3}]
  (folder / 'stats.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def test_table(tmp_path):
  _done(tmp_path, 'reference', 0.2, 0.01, None, 0.0)
  _done(tmp_path, 'gamma-x-4', 0.19, 0.02, Summary(-0.01, -0.015, -0.005, 40, 0, 0), 0.125)
  lines = ablations.table({'reference': {}, 'gamma x 4': {}}, str(tmp_path)).splitlines()
  assert lines[0] == '40 images, 320 pairs.'
  head, _, reference, other = ([cell.strip() for cell in line.strip('|').split('|')]
                               for line in lines[2:6])
  assert head[:2] == ['run', 'LPIPS alex ↓'] and head[4] == 'LPIPS less that of reference'
  assert reference == ['reference', '0.2000 [0.1900, 0.2100]', '17.50 [17.00, 18.00]', '0.0100', '',
                       '0', '0.25', '–', '–', '–']
  assert other[4] == '−0.0100 [−0.0150, −0.0050] better' and other[5] == '0.125'


def _command(workdir, *words):
  return subprocess.run(
      [sys.executable, '-m', 'benchmarks.measured.ablations', '--config=configs/tiny.py',
       f'--workdir={workdir}', *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_that_fails_is_one_sentence(tmp_path):
  done = _command(tmp_path, '--run=wrong: train.batch_sice=2')
  assert done.returncode == 2 and 'batch_sice' in done.stderr and 'Traceback' not in done.stderr
  assert not (tmp_path / ablations.TABLE).exists()


def test_after_a_run_that_fails_no_other_begins(tmp_path):
  runs = {name: {'train.batch_sice': 2} for name in 'abcdefgh'}
  with pytest.raises(UserError, match='batch_sice'):
    ablations.train(runs, ['--config=configs/tiny.py'], str(tmp_path), ablations.MainProcesses())
  assert [path.name for path in tmp_path.iterdir()] == ['a.log']


def test_sigterm_ends_the_runs_that_were_started(tmp_path):
  command = subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.measured.ablations', '--config=configs/tiny.py',
       f'--workdir={tmp_path}', '--run=a:', '--run=b:', '--jobs=2'],
      cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert command.stdout is not None
  assert 'training' in command.stdout.readline() and 'training' in command.stdout.readline()
  command.terminate()
  _, errors = command.communicate(timeout=60)
  # Had it not waited for them, it would be 143.
  assert command.returncode == 2 and 'Traceback' not in errors
  assert 'main.py ended with exit code' in errors or 'again to go on' in errors


def test_after_sigterm_no_other_run_begins(tmp_path):
  processes = ablations.MainProcesses()
  processes.terminate()
  with pytest.raises(UserError, match='again to go on'):
    processes.run(['--config=configs/tiny.py', f'--workdir={tmp_path}'], str(tmp_path / 'a.log'))
  assert not (tmp_path / 'a.log').read_text()


@pytest.mark.slow
def test_two_runs_are_trained_compared_and_not_repeated(tmp_path):
  words = ['--config.train.total_kimg=0.032', '--config.train.kimg_per_tick=0.016',
           '--config.eval.masks_per_image=1', '--config.eval.features=',
           '--run=free:', '--run=Freeze-D 1: train.freeze_d_blocks=1']
  done = _command(tmp_path, *words)
  assert done.returncode == 0, done.stderr
  assert 'Freeze-D 1: training' in done.stdout
  text = (tmp_path / ablations.TABLE).read_text()
  assert text in done.stdout
  free, frozen = ([cell.strip() for cell in line.strip('|').split('|')]
                  for line in text.splitlines()[4:])
  assert free[0] == 'free' and free[4] == ''
  assert frozen[0] == 'Freeze-D 1'
  difference = float(frozen[4].split()[0].replace('−', '-'))
  assert difference == pytest.approx(
      float(frozen[1].split()[0]) - float(free[1].split()[0]), abs=2e-4)
  again = _command(tmp_path, *words)
  assert again.returncode == 0 and 'training' not in again.stdout
  assert (tmp_path / ablations.TABLE).read_text() == text
