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
  """Exit code and output of every case; two run at a time."""
  cases, results = list(_CASES.items()), {}
  workdir = str(tmp_path_factory.mktemp('main') / 'run')
  for start in range(0, len(cases), 2):
    running = {name: subprocess.Popen(
        [sys.executable, 'main.py', f'--workdir={workdir}', *arguments], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name, (arguments, _) in cases[start:start + 2]}
    for name, process in running.items():
      results[name] = process.communicate(timeout=300)[0], process.returncode
  return results, workdir


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
