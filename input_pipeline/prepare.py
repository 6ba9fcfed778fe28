"""Resizes a collection of images once and stores it in shards, which train faster.

  python -m input_pipeline.prepare --data_dir=portrait_faces.zip --output=data/portraits

makes the TensorFlow data set data/portraits/wikiart_portraits with the splits train,
validation and test, without broken files and duplicates; report.json beside the shards
names those. Train with --config.data_dir=data/portraits.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil

from absl import flags
import tensorflow_datasets as tfds

from input_pipeline import images
from input_pipeline.portraits import SAMPLES, open_portraits
from input_pipeline.wikiart_portraits import REPORT, PortraitsConfig, WikiartPortraits
from mat_jax import command_line, new_files
from mat_jax.errors import UserError, exit_on_user_error


def prepare(data_dir: str, output: str, config: PortraitsConfig, beam_runner: str | None = None,
            beam_options: list[str] | None = None) -> str:
  """Builds the data set.

  Args:
    data_dir: see `open_portraits`.
    output: folder to make, or an empty one.
    config: how; `data_dir` takes the place of its `portraits_dir`.
    beam_runner: name of an Apache Beam runner; None for threads of this process.
    beam_options: of the runner.

  Returns:
    The folder of the data set.

  Raises:
    UserError: nothing to read, too little of it, something in the folder already, no Beam.
  """
  if config.resolution < images.MIN_SIDE:
    raise UserError(f'the resolution is {config.resolution}; give {images.MIN_SIDE} pixels or more')
  open_portraits(data_dir, config.genre)  # its errors come before anything is made
  # Workers may have another current folder; 'samples' is a name, not a path.
  config = dataclasses.replace(config, portraits_dir=data_dir if data_dir == SAMPLES else (
      os.path.abspath(os.path.expanduser(data_dir))))
  builder_class = WikiartPortraits if beam_runner is None else _beam_builder()
  tfds.disable_progress_bar()  # there are better ones
  with new_files.new_directory(output) as folder:
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


def _beam_builder() -> type[WikiartPortraits]:
  try:
    from input_pipeline.beam_preparation import BeamWikiartPortraits
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
  with open(os.path.join(folder, REPORT), encoding='utf-8') as file:
    report = json.load(file)
  parts = ', '.join(f'{count} {name}' for name, count in report['splits'].items())
  lines = [f'{report["images"]} images ({parts}) in {folder}']
  for kind in ('broken', 'duplicates'):
    if report[kind]:
      lines.append(f'left out: {len(report[kind])} {kind}, {report[kind][0]["name"]} for one; '
                   f'{REPORT} there names all')
  return '\n'.join(lines)


@exit_on_user_error
def main(argv: list[str]) -> None:
  values = flags.FLAGS
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  config = PortraitsConfig(
      name=f'prepared_{values.resolution}', resolution=values.resolution, genre=values.genre,
      split_seed=values.split_seed, quality=values.quality)
  print(summary(prepare(values.data_dir, values.output, config, values.beam_runner,
                        values.beam_options)))


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', None, 'Images; see configs/base.py.')
  flags.DEFINE_string('output', None, 'Folder to make.')
  flags.DEFINE_integer('resolution', 256, 'Length of the short sides in pixels.')
  flags.DEFINE_string('genre', 'portrait', "Genre to take, where there are any; '' for all.")
  flags.DEFINE_integer('split_seed', 123, 'Seed of the splits.')
  flags.DEFINE_integer('quality', 95, 'Quality of the JPEGs.', 1, 100)
  flags.DEFINE_string('beam_runner', None, 'Apache Beam runner, for example DirectRunner; '
                      'without one the cores of this machine do the work.')
  flags.DEFINE_list('beam_options', [], 'Options of the runner, for example '
                    '--beam_options=--direct_num_workers=8.')
  command_line.run(main, ['data_dir', 'output'])
