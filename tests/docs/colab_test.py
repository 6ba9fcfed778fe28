"""The notebook: its form, what it names, and a run from top to bottom without Colab."""

import copy
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tomllib

import nbclient
import nbformat
from PIL import Image
import pytest

from configs import base
from mat_jax.inference.inpainter import Inpainter
from tests.support.paths import ROOT

_PATH = ROOT / 'docs' / 'colab.ipynb'
# The smallest run: two steps of four images, without the losses that take minutes to compile on a
# CPU; tests/training has those.
_SMALL = {'CHECKOUT': str(ROOT), 'KIMG': 0.008, 'BATCH_SIZE': 4, 'MORE': ' '.join((
    '--config.implementations=compact', '--config.train.adversarial_weight=0',
    '--config.train.adversarial_stage1_weight=0', '--config.train.projected_weight=0',
    '--config.train.lpips_weight=0', '--config.augment.pipeline=', '--config.train.sample_images=2',
    '--config.eval.masks_per_image=2', '--config.eval.lpips=alex'))}


@pytest.fixture(scope='module')
def notebook():
  return nbformat.read(_PATH, as_version=nbformat.NO_CONVERT)


def _sources(notebook, kind=None):
  return [cell.source for cell in notebook.cells if kind in (None, cell.cell_type)]


def _settings(notebook):
  (index,) = [i for i, cell in enumerate(notebook.cells)
              if 'parameters' in cell.metadata.get('tags', ())]
  return index


def test_it_is_a_notebook_without_outputs(notebook):
  assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert not cell.outputs and cell.execution_count is None, cell.id


def test_it_names_no_folder_of_a_machine_but_colabs(notebook):
  for source in _sources(notebook):
    for path in re.findall(r'''(?:(?<=['"` (])|^)(?:/|[A-Z]:\\|~/)\w[\w./\\-]*''', source, re.M):
      assert path.startswith('/content/'), path


def test_every_code_cell_says_what_it_does(notebook):
  for text, cell in zip(notebook.cells[1:], notebook.cells[2:], strict=False):
    assert cell.cell_type == 'markdown' or text.cell_type == 'markdown', cell.id
  assert re.search(r'\bmin\b', notebook.cells[0].source)


def test_the_badge_and_the_repository_are_of_one_place(notebook):
  settings = notebook.cells[_settings(notebook)].source
  place = re.search(r"^REPOSITORY = '(?:https://github\.com/([^']+))?'", settings, re.M).group(1)
  # Without a place Colab's start, where the file is uploaded.
  address = f'github/{place}/blob/main/docs/colab.ipynb' if place else ''
  badge = f'colab-badge.svg)](https://colab.research.google.com/{address})'
  assert badge in notebook.cells[0].source
  assert badge in (ROOT / 'README.md').read_text(encoding='utf-8')


def test_what_it_names_is_there(notebook):
  text = '\n'.join(_sources(notebook))
  fields = base.get_config().to_dict()
  for name in re.findall(r'--config\.([a-z_.]+)=', text):
    found = fields
    for part in name.split('.'):
      found = found[part]
  for module in re.findall(r"'-m',\s+'([a-z_.]+\.[a-z_]+)'", text):
    assert (ROOT / module.replace('.', '/')).with_suffix('.py').exists(), module
  for name in re.findall(r"'(configs/\w+\.py)'", text):
    assert (ROOT / name).exists(), name
  for target in re.findall(r'\]\((?!https?:)([^)#]+)', text):
    assert (_PATH.parent / target).exists(), target
  with open(ROOT / 'pyproject.toml', 'rb') as file:
    extras = tomllib.load(file)['project']['optional-dependencies']
  named = re.findall(r"pip install -e '\.\[([\w,]+)\]'", text)
  assert {name for line in named for name in line.split(',')} >= {'eval', 'cuda12', 'tpu'}
  assert {name for line in named for name in line.split(',')} <= extras.keys()


@pytest.mark.parametrize('driver, extra', [('550.54.15', 'cuda12'), ('580.82.07', 'cuda13')])
def test_the_driver_decides_on_cuda(notebook, driver, extra):
  source = next(cell.source for cell in notebook.cells if cell.id == 'install')
  names = {'PROJECT': ROOT, 'tomllib': tomllib}
  exec(source[source.index('def extras'):source.index('GPU = ')], names)
  assert names['extras'](['Tesla T4', driver, '7.5']).split(',')[-1] == extra


# Stands for Colab: a Drive, and a place for pages below a cell.
_COLAB = '''
import sys, types
google, colab = types.ModuleType('google'), types.ModuleType('google.colab')
shown = []
colab.drive = types.SimpleNamespace(mount=lambda path: None)
colab.files = types.SimpleNamespace(upload_file=lambda path: open(path, 'w').close())
colab.output = types.SimpleNamespace(
    serve_kernel_port_as_iframe=lambda port, height: shown.append(port))
sys.modules |= {'google': google, 'google.colab': colab}
'''


def _run_cells(notebook, names, folder, before='', after=''):
  """Runs cells in a process of their own, with a folder instead of /content; what they print."""
  cells = {cell.id: cell.source for cell in notebook.cells}
  program = '\n'.join((before, *(cells[name] for name in names[:1]), f'CHECKOUT = {str(ROOT)!r}',
                       *(cells[name] for name in names[1:]), after))
  done = subprocess.run([sys.executable, '-c', program.replace("'/content/", f"'{folder}/")],
                        cwd=folder, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_stop_button_lets_a_command_end_by_itself(notebook, tmp_path):
  child = ('import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: '
           'sys.exit(print("saved"))); print("ready", flush=True); time.sleep(60)')
  output = _run_cells(notebook, ('settings', 'start'), tmp_path, after=f'''
import signal
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.alarm(2)
try:
  run('python', '-c', {child!r})
except KeyboardInterrupt:
  print('stopped')
''')
  assert output.split()[-3:] == ['ready', 'saved', 'stopped']


def test_a_command_that_fails_stops_the_notebook(notebook, tmp_path):
  output = _run_cells(notebook, ('settings', 'start'), tmp_path, after='''
try:
  run('python', '-c', 'print("reason"); raise SystemExit(2)')
except subprocess.CalledProcessError as error:
  print('ended with', error.returncode)
''')
  assert output.endswith('reason\nended with 2\n')


def test_in_colab_pages_are_shown_and_missing_files_asked_for(notebook, tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  output = _run_cells(notebook, ('settings', 'start', 'files'), tmp_path, _COLAB, f'''
place('faces.zip')
print(sorted(path.name for path in FOLDER.iterdir()), FOLDER)
started = []
popen = subprocess.Popen
subprocess.Popen = lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
serve({port}, 'python', '-m', 'http.server', {port}, '--bind', '127.0.0.1')
started[0].terminate()
started[0].wait()
serve({port}, 'python', '-c', 'raise SystemExit("no page today")')
print(shown)
''')
  assert f"['faces.zip'] {tmp_path}/drive/MyDrive/mat" in output
  assert 'no page today' in output and output.endswith(f'[{port}]\n')


def test_elsewhere_a_missing_file_is_named(notebook, tmp_path):
  output = _run_cells(notebook, ('settings', 'start', 'files'), tmp_path, after='''
try:
  place('faces.zip')
except FileNotFoundError as error:
  print(error)
serve(7860, 'mat-jax', 'app')
''')
  assert f'{tmp_path}/mat/faces.zip does not exist' in output
  assert output.endswith('In a terminal: mat-jax app\n')


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  run = copy.deepcopy(notebook)
  index = _settings(run)
  assert all(re.search(rf'^{name} = ', run.cells[index].source, re.M) for name in _SMALL)
  run.cells.insert(index + 1, nbformat.v4.new_code_cell(
      '\n'.join(f'{name} = {value!r}' for name, value in _SMALL.items())))
  client = nbclient.NotebookClient(
      run, timeout=1800, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}})
  try:
    client.execute()
  finally:
    nbformat.write(run, tmp_path / 'executed.ipynb')
  _check_products(tmp_path / 'mat')
  assert sorted(os.listdir(tmp_path)) == ['executed.ipynb', 'mat']


def _check_products(folder: pathlib.Path):
  side = Inpainter.from_checkpoint('small').resolution
  workdir = folder / 'runs' / 'small'
  assert Inpainter.from_checkpoint(str(workdir)).resolution == side
  assert [path.name for path in (workdir / 'checkpoints').iterdir()] == ['2']
  metrics = json.loads((workdir / 'eval' / 'metrics.json').read_text(encoding='utf-8'))
  assert metrics['step'] == 2
  images = sorted((folder / 'examples' / 'images').glob('*.png'))
  results = sorted((folder / 'results').glob('*.png'))
  assert images and len(results) == 2 * len(images)
  with Image.open(results[0]) as result:
    assert result.size == (side, side)
  with Image.open(folder / 'before_and_after.png') as sheet:
    assert sheet.size == (4 * 192, 192 * len(images))
    assert len(sheet.getcolors(sheet.width * sheet.height)) > 100
