"""The published PyTorch code on one NVIDIA GPU: training step and generator, timed.

  VENV/bin/python -m benchmarks.pytorch.original_cuda --original=MAT --output=torch.json

needs an interpreter with torch, torchvision, scipy and requests, and a clone of the repository
fenglinglwb/MAT; neither is part of this project, of which nothing else is imported. Networks,
loss and CUDA operators are the clone's, the loop follows its training_loop.py at the settings of
its README: Gmain, Dmain, the EMA update, and R1 separately since it is due in one step of sixteen.
Weights and images are random. TensorFloat-32 is allowed and cuDNN tries its algorithms.

Rows are measured in the order of `PLAN` until --seconds do not suffice, and the file is written
again after each. `step_seconds` and `seconds` are medians of calls queued one behind the other,
`waited_seconds` of calls that were waited for; `operators` says which of the clone's operators
could be built, the others ran as its slow reference implementation.
"""

import argparse
from collections.abc import Callable
import contextlib
import copy
import functools
import gc
import json
import statistics
import time
import traceback
from typing import Any
import warnings

import torch

from benchmarks.pytorch import original_torch

Row = dict[str, Any]

R1_INTERVAL = 16
# What is measured, the most important first: kind, precision, images.
PLAN = (
    ('training', 'tf32', 8),
    ('generator', 'tf32', 8), ('generator', 'tf32', 1), ('generator', 'tf32', 32),
    ('training', 'tf32', 32),
    ('training', 'tf32', 16),  # only where 32 did not fit
    ('training', 'bfloat16', 8),
    ('training', 'tf32', 64),
    ('training', 'bfloat16', 32),
    ('generator', 'bfloat16', 8), ('generator', 'bfloat16', 32), ('generator', 'bfloat16', 1),
    ('training', 'bfloat16', 64),
    ('training', 'float32', 8),
)


class Clock:
  """Times calls on the device, or on the CPU to try this file without one."""

  def __init__(self, device: str):
    self._cuda = device == 'cuda'

  def wait(self) -> None:
    """Returns once the device has done what it was given."""
    if self._cuda:
      torch.cuda.synchronize()

  def mark(self) -> Any:
    """A point in the device's queue."""
    if not self._cuda:
      return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event

  def between(self, first: Any, second: Any) -> float:
    """Seconds from one mark to a later one, both passed."""
    return first.elapsed_time(second) / 1000 if self._cuda else second - first

  def queued(self, run: Callable[[], None], count: int, seconds: float) -> list[float]:
    """Seconds of each of `count` calls, one at least, queued; ends early after `seconds`."""
    self.wait()
    begun, marks = time.perf_counter(), [self.mark()]
    while len(marks) <= count and (len(marks) == 1 or time.perf_counter() - begun < seconds):
      run()
      marks.append(self.mark())
    self.wait()
    return [self.between(*pair) for pair in zip(marks, marks[1:], strict=False)]

  def waited(self, run: Callable[[], None], count: int, seconds: float) -> list[float]:
    """The same, each waited for before the next is given to the device."""
    found: list[float] = []
    while not found or (len(found) < count and sum(found) < seconds):
      begun = time.perf_counter()
      run()
      self.wait()
      found.append(time.perf_counter() - begun)
    return found


def set_precision(precision: str) -> None:
  """Allows TensorFloat-32 unless 'float32' is asked for."""
  torch.backends.cuda.matmul.allow_tf32 = precision != 'float32'
  torch.backends.cudnn.allow_tf32 = precision != 'float32'
  torch.backends.cudnn.benchmark = True


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
  """The context in which the networks compute."""
  return torch.autocast(device, torch.bfloat16, enabled=precision == 'bfloat16')


@functools.cache
def made_networks(mat: Any, resolution: int) -> tuple[torch.nn.Module, torch.nn.Module]:
  """Generator and discriminator, to be copied: making them takes seconds."""
  return mat.Generator(512, 0, 512, resolution, 3), mat.Discriminator(0, resolution, 3)


@functools.cache
def import_losses() -> Any:
  """The clone's module of losses, its VGG19 with random weights instead of downloaded ones."""
  from torchvision.models import vgg
  made = vgg.vgg19(weights=None, init_weights=False)
  vgg.vgg19 = lambda pretrained: made
  from losses import loss
  return loss


class Training:
  """Networks, their optimizers and the phases of a step, as published."""

  def __init__(self, mat: Any, size: int, resolution: int, device: str, precision: str):
    def prepared(network: torch.nn.Module) -> torch.nn.Module:
      return copy.deepcopy(network).train().requires_grad_(False).to(device)

    self._size, self._device, self._precision = size, device, precision
    self._generator, self._discriminator = map(prepared, made_networks(mat, resolution))
    self._average = copy.deepcopy(self._generator).eval()
    self._optimizers = [self._optimizer(self._generator, 4),
                        self._optimizer(self._discriminator, R1_INTERVAL)]
    self._loss = import_losses().TwoStageLoss(
        device, self._generator.mapping, self._generator.synthesis, self._discriminator,
        style_mixing_prob=0.5, r1_gamma=10, pl_weight=0, truncation_psi=0.5, pcp_ratio=0.1)
    self._batch = [x.to(device) for x in original_torch.make_batch(size, resolution)]

  @staticmethod
  def _optimizer(network: torch.nn.Module, interval: int) -> torch.optim.Optimizer:
    share = interval / (interval + 1)
    return torch.optim.Adam(network.parameters(), 1e-3 * share, (0.0, 0.99 ** share), 1e-8)

  def _phase(self, name: str, network: torch.nn.Module, optimizer: torch.optim.Optimizer,
             gain: int = 1) -> None:
    optimizer.zero_grad(set_to_none=True)
    network.requires_grad_(True)
    image, mask = self._batch
    latent = torch.randn(self._size, 512, device=self._device)
    label = torch.empty(self._size, 0, device=self._device)
    with autocast(self._device, self._precision):
      self._loss.accumulate_gradients(name, image, mask, label, latent, label, True, gain)
    network.requires_grad_(False)
    for parameter in network.parameters():
      if parameter.grad is not None:
        torch.nan_to_num(parameter.grad, 0.0, 1e5, -1e5, out=parameter.grad)
    optimizer.step()

  def step(self) -> None:
    """Gmain, Dmain and the EMA update."""
    self._phase('Gmain', self._generator, self._optimizers[0])
    self._phase('Dmain', self._discriminator, self._optimizers[1])
    beta = 0.5 ** (self._size / 10000)
    with torch.no_grad():
      for kept, new in zip(self._average.parameters(), self._generator.parameters(), strict=True):
        kept.copy_(new.lerp(kept, beta))
      for kept, new in zip(self._average.buffers(), self._generator.buffers(), strict=True):
        kept.copy_(new)

  def regularize(self) -> None:
    """Dreg: R1 with its own update."""
    self._phase('Dreg', self._discriminator, self._optimizers[1], R1_INTERVAL)


def reported() -> dict[str, float]:
  """Means of what the clone's loss reported since the last call."""
  from torch_utils import training_stats
  found = {}
  for name, counters in training_stats._counters.items():
    for moments in counters.values():
      count, total, _ = moments.tolist()
      found[name] = total / max(count, 1)
  training_stats._counters.clear()
  return found


def peak_memory(device: str) -> Row:
  """GB of the largest allocation and reservation since `reset`; empty on the CPU."""
  if device != 'cuda':
    return {}
  row = {'peak_memory_gb': round(torch.cuda.max_memory_allocated() / 1e9, 2),
         'peak_reserved_gb': round(torch.cuda.max_memory_reserved() / 1e9, 2)}
  torch.cuda.reset_peak_memory_stats()
  return row


def measure_training(mat: Any, args: argparse.Namespace, precision: str, size: int) -> Row:
  """A step without and with R1."""
  clock, begun = Clock(args.device), time.perf_counter()
  training = Training(mat, size, args.resolution, args.device, precision)
  first = clock.waited(training.step, args.warm_up, 60.0)
  peak_memory(args.device)
  reported()
  times = clock.queued(training.step, args.steps, args.row_seconds)
  plain, memory, losses = statistics.median(times), peak_memory(args.device), reported()
  waited = clock.waited(training.step, args.warm_up, args.row_seconds / 4)
  clock.waited(training.regularize, 2, 60.0)
  peak_memory(args.device)
  times_r1 = clock.queued(training.regularize, args.steps // 2, args.row_seconds / 4)
  r1 = statistics.median(times_r1)
  seconds = plain + r1 / R1_INTERVAL
  return {'images_per_second': size / seconds, 'seconds_per_kimg': 1000 * seconds / size,
          'step_seconds': seconds, 'plain_step_seconds': plain, 'r1_seconds': r1,
          'waited_plain_step_seconds': statistics.median(waited), 'steps': len(times),
          'spread': [min(times), max(times)], 'first_step_seconds': first[0], **memory,
          'r1_memory': peak_memory(args.device), 'losses': losses | reported(),
          'row_seconds': time.perf_counter() - begun}


def measure_generator(mat: Any, args: argparse.Namespace, precision: str, size: int) -> Row:
  """One pass of the generator."""
  clock, begun = Clock(args.device), time.perf_counter()
  generator = copy.deepcopy(made_networks(mat, args.resolution)[0])
  generator.eval().requires_grad_(False).to(args.device)
  image, mask = (x.to(args.device) for x in original_torch.make_batch(size, args.resolution))
  latent = torch.randn(size, 512, device=args.device)

  def run() -> None:
    with torch.no_grad(), autocast(args.device, precision):
      generator(image, mask, latent, None, noise_mode='const')

  first = clock.waited(run, args.warm_up, 60.0)
  peak_memory(args.device)
  times = clock.queued(run, args.steps, args.row_seconds / 2)
  waited = clock.waited(run, args.steps, args.row_seconds / 2)
  seconds = statistics.median(times)
  return {'images_per_second': size / seconds, 'seconds': seconds,
          'waited_seconds': statistics.median(waited), 'calls': len(times),
          'spread': [min(times), max(times)], 'first_seconds': first[0],
          **peak_memory(args.device), 'row_seconds': time.perf_counter() - begun}


def reason_to_skip(rows: list[Row], kind: str, precision: str, size: int, left: float,
                   memory_gb: float) -> str | None:
  """Why a row is not to be measured, or None.

  Args:
    rows: what was measured so far, the rows of errors included.
    kind: 'training' or 'generator'.
    precision: 'tf32', 'bfloat16' or 'float32'.
    size: images.
    left: seconds of the budget.
    memory_gb: of the device.
  """
  alike = {row['batch_size']: row for row in rows
           if (row['kind'], row['precision']) == (kind, precision)}
  if size == 16 and 'step_seconds' in alike.get(32, {}):
    return 'a larger batch fits'
  if any('memory' in row.get('error', '') and other < size for other, row in alike.items()):
    return 'a smaller batch does not fit'
  peaks = sorted((n, row['peak_memory_gb']) for n, row in alike.items() if 'peak_memory_gb' in row)
  if len(peaks) > 1:
    (small, low), (large, high) = peaks[-2:]
    needed = high + (high - low) / (large - small) * (size - large)
    if needed > memory_gb:
      return f'would need about {needed:.0f} GB'
  done = [row for row in rows if row['kind'] == kind and 'row_seconds' in row]
  if done:
    last = max(done, key=lambda row: row['batch_size'] <= size and row['batch_size'])
    needed = last['row_seconds'] * max(1.0, size / last['batch_size'] / 3)
    if needed > left:
      return f'would take about {needed:.0f} s'
  return None


def operators() -> dict[str, str]:
  """Which implementation of its operators the clone has used."""
  from torch_utils.ops import bias_act, upfirdn2d
  return {module.__name__.split('.')[-1]: 'cuda' if module._plugin else 'reference'
          for module in (bias_act, upfirdn2d)}


def measure(mat: Any, args: argparse.Namespace, kind: str, precision: str, size: int) -> Row:
  """Figures of one row, or {'error'}."""
  set_precision(precision)
  function = {'training': measure_training, 'generator': measure_generator}[kind]
  try:
    row = function(mat, args, precision, size)
  except torch.OutOfMemoryError:
    row = {'error': 'out of memory'}
  except Exception as error:
    traceback.print_exc()
    row = {'error': f'{type(error).__name__}: {str(error)[:300]}'}
  gc.collect()
  if args.device == 'cuda':
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
  return row


def environment(device: str) -> Row:
  """Versions and the device."""
  found = {'torch': torch.__version__, 'cuda': torch.version.cuda,
           'cudnn': torch.backends.cudnn.version(), 'device': device}
  if device == 'cuda':
    found |= {'device': torch.cuda.get_device_name(),
              'memory_gb': round(torch.cuda.get_device_properties(0).total_memory / 1e9, 2)}
  return found


def parsed() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--original', required=True, help='Clone of the published code.')
  parser.add_argument('--output', required=True, help='JSON file to write.')
  parser.add_argument('--seconds', type=float, default=100.0, help='Time for all rows.')
  parser.add_argument('--row_seconds', type=float, default=8.0, help='Time for the steps of a row.')
  parser.add_argument('--steps', type=int, default=20, help='Most steps of a row.')
  parser.add_argument('--warm_up', type=int, default=3, help='Steps that do not count.')
  parser.add_argument('--resolution', type=int, default=256, help='Side of the images.')
  parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
  parser.add_argument('--sizes', default='', help='Only these batches, joined by commas.')
  return parser.parse_args()


def main() -> None:
  begun, args = time.perf_counter(), parsed()
  # One for each convolution: the clone's own convolution is for PyTorch up to 1.9.
  warnings.filterwarnings('ignore', 'conv2d_gradfix not supported')
  torch.manual_seed(0)
  mat = original_torch.import_networks(args.original)
  made_networks(mat, args.resolution)
  import_losses()
  print(f'{time.perf_counter() - begun:.1f} s until the networks are made', flush=True)
  found = environment(args.device) | {'resolution': args.resolution, 'rows': []}
  rows, sizes = found['rows'], [int(size) for size in args.sizes.split(',') if size]
  for kind, precision, size in PLAN:
    if sizes and size not in sizes:
      continue
    left = args.seconds - (time.perf_counter() - begun)
    row = {'kind': kind, 'precision': precision, 'batch_size': size}
    skipped = 'out of time' if left < 0 else reason_to_skip(
        rows, kind, precision, size, left, found.get('memory_gb', 1e9))
    row |= {'skipped': skipped} if skipped else measure(mat, args, kind, precision, size)
    rows.append(row)
    found['operators'] = operators()
    print(f'{time.perf_counter() - begun:.1f} s', json.dumps(row), flush=True)
    with open(args.output, 'w') as file:
      json.dump(found, file, indent=1)


if __name__ == '__main__':
  main()
