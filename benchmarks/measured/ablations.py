"""Ablations: short training runs that differ in one setting, evaluated on the same pairs.

  python -m benchmarks.measured.ablations --config=configs/portraits_small.py \\
      --config.data_dir=data/portraits_small --config.train.total_kimg=20 --workdir=runs/ablations
  python -m benchmarks.measured.ablations --config=configs/wikiart.py --workdir=runs/freeze \\
      --config.init_from=models/celebahq256 --run='free:' --run='Freeze-D 3: train.freeze_d_blocks=3'

Every run is `main.py` with the same --config and the same seed, in a folder of its own in
`--workdir`, and is then evaluated by `main.py --mode=eval`, all but the first with the first as
its baseline. A command that was interrupted goes on where it was; what has ended or been evaluated
is not done again, whatever the fields say now: other settings need another folder. SIGTERM ends
the runs that it has started, which save their state first. `--run` names a run and the fields that
it changes, and is not trained if `eval.checkpoint` is one of them: a model before fine-tuning.
Without --run the runs are those of `standard_runs`. The table, ablations.md
in `--workdir`, has the metrics of the first set of masks, the paired differences from the first
run, and the state of the discriminator, means over the last quarter of the ticks.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
from typing import Any

from absl import app, flags, logging
import ml_collections
from ml_collections import config_flags

from eval.metrics.names import METRICS
from eval.results import record, tables
from eval.results.record import Group
from eval.results.systems import BASELINE, MODEL
from mat_jax.checkpoints import step_directories
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line, sigterm
from mat_jax.runtime.storage import new_files
from mat_jax.training import log_files

TABLE = 'ablations.md'
CHECKPOINT = 'eval.checkpoint'  # a run that sets it is evaluated only
Runs = Mapping[str, Mapping[str, Any]]  # {name: {field: value}}

# What the table shows of each run: metrics of pairs, and statistics of its ticks.
_METRICS = ('lpips_alex', 'psnr_hole', 'kd_vgg16')
_STATISTICS = {'ADA p': 'augment/probability', 'sign real': 'signs/real', 'sign fake': 'signs/fake',
               'D loss': 'loss/d', 'R1': 'loss/r1'}


def standard_runs(config: ml_collections.ConfigDict) -> Runs:
  """The settings of MAT and StyleGAN2-ADA whose effect is asked for most, one at a time.

  How far two runs that differ in the seed alone are apart says which differences mean something.
  """
  gamma = config.train.r1_gamma
  return {
      'reference': {},
      'another seed': {'seed': config.seed + 1},
      'no adversarial losses': {
          'train.adversarial_weight': 0.0, 'train.adversarial_stage1_weight': 0.0,
          'train.projected_weight': 0.0},
      'no stage-one discriminator': {'train.adversarial_stage1_weight': 0.0},
      'no perceptual loss': {'train.lpips_weight': 0.0, 'train.pcp_ratio': 0.0},
      'no style mixing': {'train.style_mixing': 0.0},
      'no ADA': {'augment.pipeline': ''},
      'ADA fixed at 0.3': {'augment.probability': 0.3, 'augment.kimg': float('inf')},
      'gamma x 1/4': {'train.r1_gamma': gamma / 4},
      'gamma x 4': {'train.r1_gamma': gamma * 4},
  }


def parse_runs(texts: Sequence[str]) -> Runs:
  """Runs of the form 'name: field=value field=value'.

  Raises:
    UserError: another form, or a name twice.
  """
  runs: dict[str, dict[str, str]] = {}
  for text in texts:
    name, colon, settings = text.partition(':')
    words = settings.split()
    if not colon or not folder_name(name) or not all(re.fullmatch(r'[\w.]+=.*', w) for w in words):
      raise UserError(f"--run={text!r} is not of the form 'name: field=value field=value'")
    if folder_name(name) in map(folder_name, runs):
      raise UserError(f'--run has {name!r} twice')
    runs[name.strip()] = dict(word.split('=', 1) for word in words)
  return runs


def config_words_of(words: Sequence[str]) -> list[str]:
  """The arguments of --config and its fields, with values that are words of their own."""
  found = []
  for word, following in itertools.pairwise([*words, '--']):
    if word.startswith('--config'):
      found.append(word)
      if '=' not in word and not following.startswith('--'):
        found.append(following)
  return found


def folder_name(name: str) -> str:
  """The folder of a run."""
  return re.sub(r'[^\w.]+', '-', name).strip('-').lower()


class MainProcesses:
  """Processes of main.py, which are ended together."""

  def __init__(self) -> None:
    self._running: set[subprocess.Popen[bytes]] = set()
    self._lock = threading.Lock()
    self._is_terminated = False

  def run(self, words: Sequence[str], log: str) -> None:
    """Runs main.py and waits for it.

    Args:
      words: its arguments.
      log: file that its output is appended to.

    Raises:
      UserError: it ends with an error, or all have been terminated.
    """
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, 'a', encoding='utf-8') as file:
      with self._lock:
        if self._is_terminated:
          raise UserError('stopped; give the command again to go on')
        process = subprocess.Popen([sys.executable, 'main.py', *words], stdout=file, stderr=file)
        self._running.add(process)
      try:
        code = process.wait()
      except KeyboardInterrupt:  # of this process alone, perhaps
        process.terminate()
        raise
    with self._lock:
      self._running.remove(process)
    if code:
      with open(log, encoding='utf-8', errors='replace') as file:
        last = file.read().strip().rpartition('\n')[2]
      raise UserError(f'main.py ended with exit code {code}: {last} (all of it: {log})')

  def terminate(self) -> None:
    """Sends SIGTERM to all; a training run saves its state first."""
    with self._lock:
      self._is_terminated = True
      for process in self._running:
        process.terminate()


def train(runs: Runs, config_words: Sequence[str], workdir: str, processes: MainProcesses,
          jobs: int = 1) -> None:
  """Trains every run that has not ended yet.

  Args:
    runs: of any order.
    config_words: arguments of the command line that all of them share.
    workdir: gets a folder and a log of each.
    processes: run main.py.
    jobs: runs at a time.

  Raises:
    UserError: a run is stopped or ends with an error; those beside it are finished first.
  """
  is_over = threading.Event()

  def train_one(name: str) -> None:
    if is_over.is_set():
      return
    try:
      _train_to_the_end(name, config_words, runs[name], workdir, processes)
    except UserError:
      is_over.set()
      raise

  with futures.ThreadPoolExecutor(jobs) as pool:
    started = [pool.submit(train_one, name) for name in runs]
    try:
      for future in started:
        future.result()
    finally:
      is_over.set()


def _train_to_the_end(name: str, config_words: Sequence[str], settings: Mapping[str, Any],
                      workdir: str, processes: MainProcesses) -> None:
  folder = os.path.join(workdir, folder_name(name))
  if CHECKPOINT not in settings and not _has_ended(folder):
    print(f'{name}: training', flush=True)
    processes.run(_words(config_words, folder, settings), f'{folder}.log')
    if not _has_ended(folder):
      raise UserError(f'{folder} was stopped before its end; give the command again to go on')


def evaluate(runs: Runs, config_words: Sequence[str], workdir: str,
             processes: MainProcesses) -> None:
  """Evaluates every run that has not been; the first is what the others are compared with.

  Raises:
    UserError: an evaluation ends with an error.
  """
  baseline = os.path.join(workdir, folder_name(next(iter(runs))))
  for name, settings in runs.items():
    folder = os.path.join(workdir, folder_name(name))
    if not os.path.exists(os.path.join(folder, record.FOLDER, 'metrics.json')):
      print(f'{name}: evaluation', flush=True)
      compared = [f'--config.eval.baseline={baseline}'] if folder != baseline else []
      processes.run([*_words(config_words, folder, settings), '--mode=eval', *compared],
                    f'{folder}.log')


def _words(config_words: Sequence[str], folder: str, settings: Mapping[str, Any]) -> list[str]:
  return [*config_words, f'--workdir={folder}',
          *(f'--config.{field}={value}' for field, value in settings.items())]


def _has_ended(folder: str) -> bool:
  steps = step_directories.complete_steps(folder)
  return bool(steps) and step_directories.is_last(steps[max(steps)])


def table(runs: Runs, workdir: str) -> str:
  """The runs as a Markdown table; LPIPS in its units, PSNR in dB, logits' signs from -1 to 1.

  Raises:
    UserError: a run has no evaluation.
  """
  rows, groups = [], {}
  for name in runs:
    folder = os.path.join(workdir, folder_name(name))
    groups[name] = next(iter(record.read_last(os.path.join(folder, record.FOLDER)).mask_sets.values()))
    rows.append(_row([name, *_metrics(groups[name]), *_statistics(folder)]))
  head = ['run', *(tables.title(metric) for metric in _METRICS), f'LPIPS less that of {next(iter(runs))}',
          *_STATISTICS]
  return '\n'.join([f'{tables.count(next(iter(groups.values())))}.', '', _row(head),
                    '|---' * len(head) + '|', *rows, ''])


def _metrics(group: Group) -> list[str]:
  ours, distances = group.metrics[MODEL], group.distances.get(MODEL, {})
  cells = []
  for name in _METRICS:
    if name in ours:
      cells.append(tables.mean_cell(ours[name], METRICS[name], False, group.images))
    else:
      value = distances[name].value if name in distances else None
      cells.append(tables.Cell('–' if value is None else tables.number(value, METRICS[name].form)))
  difference = group.differences.get(f'{MODEL} - {BASELINE}')
  cells.append(tables.mean_cell(difference['lpips_alex'], METRICS['lpips_alex'], True, group.images)
               if difference else tables.Cell(''))
  return [' '.join(filter(None, (cell.text, cell.detail, cell.verdict))) for cell in cells]


def _statistics(folder: str) -> list[str]:
  path, rows = os.path.join(folder, log_files.ROWS), []
  if os.path.exists(path):
    with open(path, encoding='utf-8') as file:
      rows = [json.loads(line) for line in file]
  last = rows[-math.ceil(len(rows) / 4):]  # one tick may be of a few steps
  found = [[row[field] for row in last if field in row] for field in _STATISTICS.values()]
  return [f'{statistics.fmean(values):.3g}' if values else '–' for values in found]


def _row(cells: Sequence[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  values = flags.FLAGS
  runs = parse_runs(values.run) if values.run else standard_runs(values.config)
  config_words = config_words_of(sys.argv[1:])
  processes = MainProcesses()
  with sigterm.calls(processes.terminate):
    train(runs, config_words, values.workdir, processes, values.jobs)
    evaluate(runs, config_words, values.workdir, processes)
  with command_line.ended_by_sigterm():
    text = table(runs, values.workdir)
    with new_files.new_file(os.path.join(values.workdir, TABLE)) as file:
      file.write(text.encode())
    print(text)


def _parse_flags(argv: list[str]) -> list[str]:
  command_line.set_up_logging(logging.WARNING)
  return command_line.parse_flags(argv, ['config', 'workdir'])


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None, 'Of all runs.')
  flags.DEFINE_string('workdir', None, 'Folder of the runs and of the table.')
  flags.DEFINE_multi_string('run', [], "'name: field=value field=value'.")
  flags.DEFINE_integer('jobs', 1, 'Runs that are trained at a time.', lower_bound=1)
  app.run(main, flags_parser=_parse_flags)
