"""The output of an evaluation: tables, rows, pictures and TensorBoard events."""

from collections.abc import Iterator
import contextlib
import os

from clu import metric_writers
import jax
import ml_collections

from eval.classical import methods
from eval.evaluator import Result
from eval.results import baseline, markdown, pairs, picture_paths, record
from eval.results.album import Album, comparison, masked
from eval.results.record import Record
from eval.results.systems import BASELINE, MODEL
from mat_jax.runtime import image_grid
from mat_jax.runtime.storage import buckets, new_files, staging

_SHOWN = 6


@contextlib.contextmanager
def writing(folder: str, options: ml_collections.ConfigDict) -> Iterator[Album]:
  """Collects pictures; at the end those in the folder are replaced by the new ones.

  Args:
    folder: of the evaluation, made if need be.
    options: `config.eval`.
  """
  if jax.process_index() or not options.save_pictures:
    yield Album(None, 0, 0 if jax.process_index() else _SHOWN)
    return
  with new_files.replaced_directory(os.path.join(folder, picture_paths.FOLDER)) as target:
    yield Album(target, options.save_pictures, _SHOWN, methods.names_of(options.classical))


def write(result: Result, album: Album, folder: str, baseline_workdir: str = '') -> None:
  """Writes everything else, and prints the tables.

  Args:
    result: of the evaluation.
    album: the pictures that were kept.
    folder: of the evaluation.
    baseline_workdir: `config.eval.baseline`, whose pictures are shown beside.

  Raises:
    UserError: it cannot be written.
  """
  if jax.process_index():
    return
  if not buckets.is_address(folder):
    os.makedirs(folder, exist_ok=True)
  record.write(result.record, folder)
  markdown.write(result.record, folder)
  pairs.write_csv(result.pairs, os.path.join(folder, pairs.FILE))
  picture = os.path.join(folder, 'comparison.png')
  shown = album.shown
  mask_set = next(iter(result.record.mask_sets))
  theirs = (baseline.pictures(baseline_workdir, mask_set, shown['image_index'].tolist())
            if baseline_workdir else None)
  if theirs is not None:
    shown[BASELINE] = theirs
  filled = [system for system in result.record.mask_sets[mask_set].metrics
            if system in shown]
  image_grid.write_png(picture, comparison(shown, filled))
  with staging.added_to(folder) as local:
    _write_events(result.record, album, local)
  print(markdown.markdown(result.record))
  print(f'\n{" / ".join(["masked", *filled, MODEL, "original"])}: {picture}')


def _write_events(found: Record, album: Album, folder: str) -> None:
  writer = metric_writers.create_default_writer(folder, asynchronous=False)
  writer.write_scalars(found.step, scalars(found))
  writer.write_texts(found.step, {'eval/tables': markdown.markdown(found)})
  shown = album.shown
  columns = [shown['original'], masked(shown), shown['stage1'], shown['result']]
  writer.write_images(found.step, {
      'eval/image_masked_stage1_result': image_grid.grid(columns)[None]})
  writer.close()


def scalars(found: Record) -> dict[str, float]:
  """The numbers for TensorBoard, by tag; what could not be measured is left out."""
  values: dict[str, float] = {}
  for mask_set, group in found.mask_sets.items():
    for system in group.metrics:
      if system == BASELINE:  # another checkpoint's
        continue
      tag = f'eval_{mask_set}' + ('' if system == MODEL else f'_{system.replace(" ", "_")}')
      values |= {f'{tag}/{name}': summary.mean
                 for name, summary in group.metrics[system].items() if summary.n}
      values |= {f'{tag}/{name}': distance.value
                 for name, distance in group.distances.get(system, {}).items()
                 if distance.value is not None}
  return values
