"""Resizes an image data set once and stores it in shards, which are read faster.

  python -m input_pipeline.prepare --data_dir=portrait_faces.zip --output=data/portraits

makes the TensorFlow data set data/portraits/wikiart_portraits with the splits train,
validation and test, without broken files and duplicates; report.json beside the shards
names those. Train with --config.data_dir=data/portraits. Figures that were cut out of their
background, crops around heads, near duplicates, a test set of your own: docs/data.md.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil

from absl import flags
import tensorflow_datasets as tfds

from input_pipeline.image_dataset import SAMPLES, ImageDataset, open_dataset
from input_pipeline.preparing import attribution, crops, name_lists
from input_pipeline.preparing.preparation import TRANSPARENCIES, Settings
from input_pipeline.wikiart_portraits import REPORT, PortraitsConfig, WikiartPortraits
from mat_jax.errors import UserError, exit_on_user_error
from mat_jax.runtime import command_line, images
from mat_jax.runtime.storage import buckets, new_files


def prepare(data_dir: str, output: str, config: PortraitsConfig, beam_runner: str | None = None,
            beam_options: list[str] | None = None) -> str:
  """Builds the data set.

  Args:
    data_dir: see `open_dataset`.
    output: folder to make, or an empty one.
    config: how; `data_dir` takes the place of its `portraits_dir`.
    beam_runner: name of an Apache Beam runner; None for threads of this process.
    beam_options: of the runner.

  Returns:
    The folder of the data set.

  Raises:
    UserError: nothing to read, too little of it, something in the folder already, no Beam,
      settings that do not exist or that name no picture.
  """
  # All user errors are raised before anything is written.
  _check(config.settings, open_dataset(data_dir, config.genre))
  # Workers may have another current folder; 'samples' is a name, not a path.
  config = dataclasses.replace(config, portraits_dir=data_dir if data_dir == SAMPLES else (
      buckets.absolute(os.path.expanduser(data_dir))))
  builder_class = WikiartPortraits if beam_runner is None else _beam_builder()
  tfds.disable_progress_bar()  # there are better ones
  with new_files.new_directory(output, 'dataset_info.json') as folder:
    builder = builder_class(data_dir=folder, config=config)
    download_config = tfds.download.DownloadConfig(
        beam_runner=beam_runner, beam_options=_parse_options(beam_options or []),
        try_download_gcs=False)
    downloads = os.path.join(folder, 'downloads')
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(download_dir=downloads, download_config=download_config)
    shutil.rmtree(downloads)
    relative = os.path.relpath(builder.data_path, folder)
  return os.path.join(output, relative)


def _check(settings: Settings, portraits: ImageDataset) -> None:
  """Raises a UserError for settings that cannot be followed."""
  if settings.resolution < images.MIN_SIDE:
    raise UserError(
        f'the resolution is {settings.resolution}; give {images.MIN_SIDE} pixels or more')
  if settings.transparency not in TRANSPARENCIES:
    raise UserError(f'unknown transparency {settings.transparency!r}; choose one of '
                    f'{", ".join(TRANSPARENCIES)}')
  for kind in settings.crops:
    if kind not in crops.KINDS:
      raise UserError(f'unknown crop {kind!r}; choose from {", ".join(crops.KINDS)}')
  if settings.near_duplicates >= 0:
    _check_distance(settings.near_duplicates)
  if settings.held_out or settings.leave_out:
    names = [portraits.source.name(position) for position in portraits.positions]
    name_lists.check((*settings.held_out, *settings.leave_out), names)


def _check_distance(distance: int) -> None:
  try:
    from input_pipeline.preparing.near_duplicates import BITS
  except ImportError as error:
    raise UserError(
        f'ImageHash is not installed ({error}); pip install ImageHash') from error
  if distance >= BITS // 2:
    raise UserError(f'{distance} of {BITS} bits is the distance of any two pictures; give '
                    f'less than {BITS // 2}')


def _beam_builder() -> type[WikiartPortraits]:
  try:
    from input_pipeline.preparing.beam_preparation import BeamWikiartPortraits
  except ImportError as error:
    raise UserError(f"Apache Beam is not installed ({error}); pip install -e '.[beam]'") from error
  return BeamWikiartPortraits


def _parse_options(options: list[str]) -> object | None:
  if not options:
    return None
  from apache_beam.options.pipeline_options import PipelineOptions
  return PipelineOptions(options)


def summary(folder: str) -> str:
  """Returns the report of a data set in a few lines."""
  with buckets.open_text(os.path.join(folder, REPORT)) as file:
    report = json.load(file)
  parts = ', '.join(f'{count} {name}' for name, count in report['splits'].items())
  lines = [f'{report["images"]} images ({parts}) in {folder}']
  records = sum(report['records'].values())
  if records > report['images']:
    lines.append(f'{records} crops of them, {report["records"]["train"]} for training')
  for kind, text in (('broken', 'broken'), ('duplicates', 'duplicates'),
                     ('like_held_out', 'near a held-out one')):
    if report[kind]:
      lines.append(f'left out: {len(report[kind])} {text}, {report[kind][0]["name"]} for one; '
                   f'{REPORT} there names all')
  if report['near_duplicates']:
    lines.append(f'{len(report["near_duplicates"])} groups of near duplicates, each in one split')
  return '\n'.join(lines)


@exit_on_user_error
def main(argv: list[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  settings = Settings(
      values.resolution, values.quality, values.transparency, tuple(values.crops),
      -1 if values.near_duplicates is None else values.near_duplicates,
      name_lists.read(values.held_out) if values.held_out else (),
      name_lists.read(values.leave_out) if values.leave_out else (),
      attribution.read(values.credits) if values.credits else (), values.split_seed)
  config = PortraitsConfig(
      name=f'prepared_{values.resolution}', settings=settings, genre=values.genre)
  print(summary(prepare(values.data_dir, values.output, config, values.beam_runner,
                        values.beam_options)))


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', None, 'Images; see configs/base.py.')
  flags.DEFINE_string('output', None, 'Folder to make.')
  flags.DEFINE_integer('resolution', 256, 'Length of the short sides in pixels.')
  flags.DEFINE_string('genre', 'portrait', "Genre to take, where there are any; '' for all.")
  flags.DEFINE_integer('split_seed', 123, 'Seed of the splits.')
  flags.DEFINE_integer('quality', 95, 'Quality of the JPEGs.', 1, 100)
  flags.DEFINE_string('transparency', 'white', 'What transparent pictures are laid on: white, or '
                      'a muted colour of their own palette.')
  flags.DEFINE_list('crops', [], 'Squares to cut instead of keeping the whole picture: top, '
                    'shoulders, head, aside. Validation and test get the first one only.')
  flags.DEFINE_integer('near_duplicates', None, 'Keep pictures whose perceptual hashes differ in '
                       'at most so many of 256 bits in one split; 72 finds versions of a picture.',
                       0)
  flags.DEFINE_string('held_out', None, 'File with a name on each line: the test split.')
  flags.DEFINE_string('leave_out', None, 'File with a name on each line: not used.')
  flags.DEFINE_string('credits', None, 'CSV file with columns file, artist, license, for the '
                      'report.')
  flags.DEFINE_string('beam_runner', None, 'Apache Beam runner, for example DirectRunner; '
                      'without one the cores of this machine do the work.')
  flags.DEFINE_list('beam_options', [], 'Options of the runner, for example '
                    '--beam_options=--direct_num_workers=8.')
  command_line.run(main, ['data_dir', 'output'], in_bucket=['data_dir', 'output'])
