import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

_CASES = {
    'unknown field': (['--config=configs/tiny.py', '--config.train.batchsize=3'],
                      "the config has no field 'batchsize'. Did you mean \"batch_size\""),
    'wrong type': (['--config=configs/tiny.py', '--config.train.batch_size=many'], 'many'),
    'missing config': (['--config=configs/nothing.py'], 'configs/nothing.py'),
    'no config': ([], '--config'),
    'no cluster': (['--config=configs/tiny.py', '--distributed'], '--coordinator=HOST:PORT'),
    'scheme': (['--config=configs/tiny.py', '--config.data_dir=s3://bucket/portraits'],
               '--config.data_dir is s3://bucket/portraits, but s3:// is not supported'),
    'bucket': (['--config=configs/tiny.py', '--config.inpaint.images=gs://bucket/portraits'],
               '--config.inpaint.images is gs://bucket/portraits, but gs:// is not supported'),
    'missing data': (['--config=configs/tiny.py', '--config.data_dir=nowhere'], 'nowhere'),
    'nothing to evaluate': (['--config=configs/tiny.py', '--mode=eval'], 'no checkpoint'),
    'nothing to inpaint': (['--config=configs/tiny.py', '--mode=inpaint'], 'inpaint.images'),
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
  """Output and exit code of every case, and their workdir."""
  workdir = str(tmp_path_factory.mktemp('main') / 'run')
  cases = {name: [f'--workdir={workdir}', *arguments] for name, (arguments, _) in _CASES.items()}
  done = subprocess.run(
      [sys.executable, '-m', 'tests.support.main_worker', json.dumps(cases)], cwd=ROOT,
      capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1]), workdir


@pytest.mark.parametrize('name', _CASES)
def test_a_mistake_is_one_sentence_and_exit_code_2(outcomes, name):
  results, workdir = outcomes
  output, code = results[name]
  message = [line for line in output.splitlines() if line.startswith('error: ')]
  assert code == 2 and len(message) == 1, output
  assert _CASES[name][1] in message[0]
  assert 'Traceback' not in output
  assert not os.path.exists(workdir)


def test_help():
  result = subprocess.run([sys.executable, 'main.py', '--help'], cwd=ROOT, capture_output=True,
                          text=True, check=False)
  assert result.returncode == 0
  assert '--mode: <train|eval|inpaint>' in result.stdout
