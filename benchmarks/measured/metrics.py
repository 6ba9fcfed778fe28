"""Times the metrics of image pairs: PSNR, SSIM, L1 and LPIPS (AlexNet) of 8-bit images.

  python -m benchmarks.measured.metrics

compares random pairs with `eval` and, where scikit-image, torch and the PyPI package `lpips`
are installed, with those in turn, on the same cores and to the same values. They are called
as their documentation shows, a pair at a time, LPIPS in the batch size that is best for it;
a third row distributes the calls of scikit-image over threads. The last line is JSON: seconds that
1,000 pairs take (medians; lower is better), how many times faster the total is, the largest
relative difference of the values, and the seconds of our first batch, which compiles and is
in no other figure.
"""

from collections.abc import Callable
from concurrent import futures
import json
import os
import platform
import statistics
import time
from typing import Any, cast

from absl import app, flags
import jax
import numpy as np

from convert import feature_nets
from eval.metrics import image_metrics, lpips_distance

_PAIRS = flags.DEFINE_integer('pairs', 1000, 'Pairs to compare.')
_RESOLUTION = flags.DEFINE_integer('resolution', 256, 'Side of the images.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Pairs at a time, of ours.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Measurements.')

_TORCH_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_TRIAL_PAIRS = 64

# A metric takes two uint8 [N, H, W, 3] and gives [N].
Metric = Callable[[np.ndarray, np.ndarray], np.ndarray | jax.Array]
Side = dict[str, Metric]


def make_pairs(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Random images of squares, and the same with noise in a hole."""
  rng = np.random.default_rng(0)
  squares = rng.integers(0, 256, (count, -(-side // 16), -(-side // 16), 3)).astype(np.uint8)
  images = np.ascontiguousarray(squares.repeat(16, 1).repeat(16, 2)[:, :side, :side])
  results = images.copy()
  hole = slice(side // 4, -side // 4)
  for result in results:
    noise = rng.normal(0, 40, result[hole, hole].shape)
    result[hole, hole] = np.clip(result[hole, hole] + noise, 0, 255)
  return images, results


def in_batches(metric: Metric, batch_size: int) -> Metric:
  """The same metric, of so many pairs at a time."""
  return lambda a, b: np.concatenate([
      metric(a[start:start + batch_size], b[start:start + batch_size])
      for start in range(0, len(a), batch_size)])


def make_ours() -> Side:
  """The metrics of `eval`."""
  metrics: Side = {'psnr': image_metrics.psnr, 'ssim': image_metrics.ssim, 'l1': image_metrics.l1,
                   'lpips_alex': lpips_distance.lpips}
  return {name: in_batches(metric, _BATCH_SIZE.value) for name, metric in metrics.items()}


def make_theirs(map_pairs: Callable[..., Any], their_lpips: Metric) -> Side:
  """Those of scikit-image and NumPy, by `map` or that of a pool of threads, and an LPIPS."""
  from skimage import metrics

  def psnr(a, b):
    return metrics.peak_signal_noise_ratio(a, b, data_range=255)

  def ssim(a, b):
    return metrics.structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11,
        channel_axis=-1, data_range=255)

  def l1(a, b):
    return np.abs(a.astype(np.float32) - b).mean() / 255

  def of_all(metric):
    return lambda a, b: np.array(list(map_pairs(metric, a, b)))

  return {'psnr': of_all(psnr), 'ssim': of_all(ssim), 'l1': of_all(l1),
          'lpips_alex': their_lpips}


def make_their_lpips() -> Metric:
  """LPIPS of the package `lpips`, with its own weights of channels, on the same AlexNet."""
  import lpips as torch_lpips
  import torch

  torch.set_num_threads(os.cpu_count())
  # AlexNet starts at random, because torchvision would download it.
  network = torch_lpips.LPIPS(net='alex', pnet_rand=True, verbose=False).eval()
  convs = [module for module in network.net.modules() if isinstance(module, torch.nn.Conv2d)]
  alexnet = cast(feature_nets.Params, feature_nets.load_lpips('alex')['features'])
  with torch.no_grad():
    for conv, params in zip(convs, alexnet.values(), strict=True):
      conv.weight.copy_(torch.from_numpy(np.moveaxis(params['kernel'], (3, 2), (0, 1)).copy()))
      conv.bias.copy_(torch.from_numpy(params['bias']))

  def compare(a, b):
    with torch.inference_mode():
      a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() / 127.5 - 1 for x in (a, b))
      return network(a, b).numpy().ravel()

  return compare


def measure(metric: Metric, a: np.ndarray, b: np.ndarray) -> float:
  """Seconds for 1,000 pairs."""
  begun = time.perf_counter()
  metric(a, b)
  return 1000 / len(a) * (time.perf_counter() - begun)


def best_batch_size(metric: Metric, a: np.ndarray, b: np.ndarray) -> int:
  """The batch size that takes a metric the least time, of three trials each."""
  seconds = {}
  for size in _TORCH_BATCH_SIZES:
    batched = in_batches(metric, size)
    seconds[size] = min(measure(batched, a, b) for _ in range(3))
  return min(seconds, key=seconds.__getitem__)


def measure_in_turn(sides: dict[str, Side], a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
  """Side -> metric -> median seconds for 1,000 pairs, and the median total."""
  seconds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
  for repeat in range(_REPEATS.value):
    for name, side in sides.items():
      found = {metric: measure(function, a, b) for metric, function in side.items()}
      seconds[name].append(found | {'total': sum(found.values())})
      print(f'{repeat} {name}:', ', '.join(
          f'{metric} {value:.2f} s' for metric, value in seconds[name][-1].items()), flush=True)
  return {name: {metric: round(statistics.median(values[metric] for values in found), 3)
                 for metric in found[0]} for name, found in seconds.items()}


def largest_difference(ours: Metric, theirs: Metric, a: np.ndarray, b: np.ndarray) -> float:
  """Relative, over pairs."""
  expected = theirs(a, b)
  return float(f'{np.max(np.abs(ours(a, b) / expected - 1)):.1e}')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  a, b = make_pairs(_PAIRS.value, _RESOLUTION.value)
  few = a[:_TRIAL_PAIRS], b[:_TRIAL_PAIRS]
  sides = {'ours': make_ours()}
  first = {name: round(measure(metric, *(x[:_BATCH_SIZE.value] for x in few))
                       * _BATCH_SIZE.value / 1000, 2) for name, metric in sides['ours'].items()}
  found = {'jax': jax.__version__, 'device': jax.devices()[0].device_kind,
           'machine': platform.machine(), 'cores': os.cpu_count(), 'pairs': len(a),
           'resolution': _RESOLUTION.value, 'first_batch_seconds': first}
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    try:
      their_lpips = make_their_lpips()
      batch_size = best_batch_size(their_lpips, *few)
      batched = in_batches(their_lpips, batch_size)
      sides |= {'theirs': make_theirs(map, batched),
                'theirs_in_threads': make_theirs(pool.map, batched)}
    except ImportError as error:
      print(f'No comparison: {error}.')
    seconds = measure_in_turn(sides, a, b)
  found['seconds_per_1000_pairs'] = seconds
  if 'theirs' in sides:
    found |= {
        'lpips_batch_size': batch_size,
        'times_faster': {name: round(seconds[name]['total'] / seconds['ours']['total'], 2)
                         for name in seconds if name != 'ours'},
        'largest_relative_difference': {
            name: largest_difference(metric, sides['theirs'][name], *few)
            for name, metric in sides['ours'].items()}}
  print(json.dumps(found))


if __name__ == '__main__':
  app.run(main)
