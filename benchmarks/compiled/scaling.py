"""Estimates of training on 8 to 1,024 chips from figures of one chip.

  python -m benchmarks.compiled.scaling
  python -m benchmarks.compiled.scaling --cluster=v4 --seconds_per_kimg=256:10.7,512:20

prints the tables of docs/scaling.md. --seconds_per_kimg are those of one chip, roofline or
measured (`benchmarks.compiled.tpu_aot`, `benchmarks.measured.device`). Parameters are counted in
the networks of configs/base.py. The last line is JSON: a row for each resolution and number of
chips, and what limits scaling first. Nothing is run.
"""

from collections.abc import Iterable
import dataclasses
import json
import math
from typing import Any

from absl import app, flags, logging
import jax

from benchmarks import abstract_step
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.nn.model_config import GROUP_SIZE

_CLUSTER = flags.DEFINE_string('cluster', 'v5e', 'v5e or v4.')
_SECONDS = flags.DEFINE_string(
    'seconds_per_kimg', '256:12.2,512:41.9', 'Of one chip, by resolution.')
_BATCHES = flags.DEFINE_string('batch_per_chip', '256:8,512:4', 'Images, by resolution.')
_READING = flags.DEFINE_string(
    'images_per_second', '256:1141,512:500', 'Prepared shards that two CPU cores read and mask.')
_STORAGE = flags.DEFINE_float('storage', 0.2, 'GB/s at which a checkpoint is written.')
_CHIPS = (8, 16, 32, 64, 128, 256, 512, 1024)
_BATCHES_KEPT = (32, 128)
_LARGEST_BATCH = 128  # four times that of the MAT paper


@dataclasses.dataclass(frozen=True)
class Cluster:
  """How chips are connected.

  Attributes:
    host_chips: chips of a host.
    slice_chips: most chips of a slice, which the chips' own network (ICI) connects.
    ici: bytes/s that a chip sends in a ring: both directions of one axis, two links.
    dcn: bytes/s that a chip sends to other slices, its share of the host's; None where there
      are no others.
  """

  host_chips: int
  slice_chips: int
  ici: float
  dcn: float | None


# Google Cloud's documentation, "TPU v5e" and "TPU v4", system architecture: ICI of 400 GB/s over
# 4 ports, both directions counted, and 6.4 Tbit/s of data centre network for 256 chips; of v4
# 2,400 Gbit/s over 6 ports, one direction, and slices of all the chips that are asked for here.
CLUSTERS = {'v5e': Cluster(8, 256, 100e9, 3.1e9), 'v4': Cluster(4, 4096, 100e9, None)}


@dataclasses.dataclass(frozen=True)
class Workload:
  """A training run on one chip.

  Attributes:
    resolution: side of the images.
    batch: images per chip.
    seconds_per_kimg: of one chip.
    reduced_bytes: gradients of an average step.
    state_bytes: of a checkpoint.
    reading: images/s that two cores of a host prepare.
  """

  resolution: int
  batch: int
  seconds_per_kimg: float
  reduced_bytes: float
  state_bytes: float
  reading: float


def reduce_seconds(size: float, chips: int, cluster: Cluster) -> float:
  """Seconds of an all-reduce in rings: within the slices, then between them.

  A ring of n sends 2 (n - 1) / n times the data (Patarasuk and Yuan 2009). Between slices,
  every chip sends only the part that it has summed.

  Args:
    size: bytes that every chip has.
    chips: how many.
    cluster: their networks.
  """
  slices = -(-chips // cluster.slice_chips)
  within = chips // slices
  seconds = 2 * (within - 1) / within * size / cluster.ici
  if slices > 1:
    assert cluster.dcn is not None
    seconds += 2 * (slices - 1) / slices * size / within / cluster.dcn
  return seconds


def row(workload: Workload, chips: int, cluster: Cluster) -> dict[str, float]:
  """The costs of a number of chips, every one with the workload's batch.

  The all-reduce is assumed not to overlap with computation, which is the worst case.
  """
  compute = workload.seconds_per_kimg * workload.batch / 1000
  reduce = reduce_seconds(workload.reduced_bytes, chips, cluster)
  step = compute + reduce
  batch = workload.batch * chips
  return {
      'resolution': workload.resolution, 'chips': chips, 'batch': batch, 'step_seconds': step,
      'seconds_per_kimg': 1000 * step / batch,
      'chip_seconds_per_kimg': 1000 * step / workload.batch,
      'reduce_seconds': reduce, 'efficiency': compute / step,
      'host_images_per_second': workload.batch * min(cluster.host_chips, chips) / step}


def rows_of_batch(workload: Workload, batch: int, cluster: Cluster) -> list[dict[str, float]]:
  """The costs while the global batch stays, from 8 chips to `most_chips`.

  An image is taken to cost the same whatever the batch of a chip.
  """
  return [row(dataclasses.replace(workload, batch=batch // chips), chips, cluster)
          for chips in _CHIPS if chips <= most_chips(batch)]


def cores(workload: Workload, cluster: Cluster) -> int:
  """Cores that a host needs to read for its chips, without waiting for anything else."""
  wanted = 1000 / workload.seconds_per_kimg * cluster.host_chips
  return math.ceil(2 * wanted / workload.reading)


def most_chips(batch: int) -> int:
  """Chips that can share a global batch with only gradients to communicate.

  A chip needs a whole group of the minibatch standard deviation.
  """
  return max(1, batch // GROUP_SIZE)


def breaks_first(workload: Workload, rows: Iterable[dict[str, float]]) -> str:
  """The first limit that is met as chips are added, with the number of chips."""
  for found in rows:
    if found['batch'] > _LARGEST_BATCH:
      return (f'the batch: {found["chips"]} chips make it {found["batch"]}, above '
              f'{_LARGEST_BATCH}, four times that of the paper')
    if found['efficiency'] < 0.9:
      return f'the network: on {found["chips"]} chips it takes more than a tenth of the step'
    if found['host_images_per_second'] > workload.reading:
      return f'reading: a host of {found["chips"]} chips needs more than two cores read'
  return 'nothing within these numbers of chips'


def by_resolution(text: str, flag: str) -> dict[int, float]:
  """'256:12.2,512:41.9' as a mapping; UserError for what is none, or not positive."""
  try:
    pairs = dict(part.split(':') for part in text.split(','))
    found = {int(resolution): float(value) for resolution, value in pairs.items()}
    if any(value <= 0 for value in found.values()):
      raise ValueError
  except ValueError as error:
    raise UserError(f'--{flag} is {text!r}; give positive numbers by resolution, as '
                    '256:12.2,512:41.9') from error
  return found


def workloads() -> list[Workload]:
  """What the flags say, with the sizes of the networks.

  Raises:
    UserError: the flags do not name the same resolutions.
  """
  flagged = [by_resolution(flag.value, flag.name) for flag in (_SECONDS, _BATCHES, _READING)]
  if len({frozenset(values) for values in flagged}) > 1:
    raise UserError('--seconds_per_kimg, --batch_per_chip and --images_per_second name '
                    'different resolutions; give each a value for all of them')
  found = []
  for resolution in sorted(flagged[0]):
    seconds, batch, reading = (values[resolution] for values in flagged)
    made = abstract_step.make(abstract_step.Case(resolution, GROUP_SIZE, 'bfloat16', 'tpu'))
    g_size, d_size = (sum(x.size for x in jax.tree.leaves(params))
                      for params in (made.state.g_params, made.state.d_params))
    reduced = 4 * (g_size + d_size * (1 + 1 / made.settings.r1_interval))
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made.state))
    found.append(Workload(resolution, int(batch), seconds, reduced, state, reading))
  return found


_COLUMNS = {  # of the table: field and format
    'chips': ('chips', '{:,}'), 'global batch': ('batch', '{:,}'),
    's/kimg': ('seconds_per_kimg', '{:.3g}'), 'chip-s/kimg': ('chip_seconds_per_kimg', '{:.2f}'),
    'all-reduce, ms': ('reduce_milliseconds', '{:.1f}'), 'efficiency': ('efficiency', '{:.1%}'),
    'images/s per host': ('host_images_per_second', '{:,.0f}')}


def table(rows: Iterable[dict[str, float]]) -> str:
  """The rows in Markdown."""
  lines = ['| ' + ' | '.join(_COLUMNS) + ' |', '|' + '---|' * len(_COLUMNS)]
  for values in rows:
    values = values | {'reduce_milliseconds': 1000 * values['reduce_seconds']}
    cells = (form.format(values[field]) for field, form in _COLUMNS.values())
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def report(workload: Workload, cluster: Cluster) -> dict[str, Any]:
  """Prints what a workload costs, and returns it."""
  rows = [row(workload, chips, cluster) for chips in _CHIPS]
  print(f'\n{workload.resolution} px, {workload.batch} images per chip, '
        f'{workload.seconds_per_kimg:g} s/kimg on one:\n\n{table(rows)}')
  fixed = {batch: rows_of_batch(workload, batch, cluster) for batch in _BATCHES_KEPT}
  for batch, kept in fixed.items():
    print(f'\nThe same with a batch of {batch}:\n\n{table(kept)}')
  figures = {
      'reduced_megabytes': workload.reduced_bytes / 1e6,
      'checkpoint_gigabytes': workload.state_bytes / 1e9,
      'checkpoint_seconds': workload.state_bytes / 1e9 / _STORAGE.value,
      'reading_cores_per_host': cores(workload, cluster)}
  first = breaks_first(workload, rows)
  print('\n' + ', '.join(f'{name} {value:.3g}' for name, value in figures.items())
        + f'. First breaks {first}.')
  return figures | {'breaks_first': first, 'rows': rows, 'rows_of_batch': fixed}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  if _CLUSTER.value not in CLUSTERS:
    raise UserError(f'--cluster is {_CLUSTER.value!r}; choose {" or ".join(CLUSTERS)}')
  cluster, found = CLUSTERS[_CLUSTER.value], {}
  for workload in workloads():
    found[workload.resolution] = report(workload, cluster)
  print(json.dumps({'cluster': _CLUSTER.value, 'resolutions': found}))


if __name__ == '__main__':
  app.run(main)
