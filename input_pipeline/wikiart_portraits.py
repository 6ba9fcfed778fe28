"""The TensorFlow data set `wikiart_portraits`: images resized once, in shards and splits.

`python -m input_pipeline.prepare` builds it from any supported data set.
TFDS's own command builds it too:

  tfds build input_pipeline/wikiart_portraits.py --manual_dir=PORTRAITS --data_dir=OUTPUT
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
import os
import tempfile
from typing import Any

import tensorflow_datasets as tfds
import tqdm

from input_pipeline.image_dataset import ImageDataset, open_dataset
from input_pipeline.preparing import preparation, split_plan

REPORT = 'report.json'


@dataclasses.dataclass(eq=False)
class PortraitsConfig(tfds.core.BuilderConfig):
  """Settings of the preparation.

  Attributes:
    settings: what is done to them.
    genre: see `open_dataset`.
    portraits_dir: see `open_dataset`; '' takes TFDS's `manual_dir`.
  """
  settings: preparation.Settings = preparation.Settings()
  genre: str = 'portrait'
  portraits_dir: str = ''


class WikiartPortraits(tfds.core.GeneratorBasedBuilder):
  """Painted portraits, or the images of any other data set."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS = [
      PortraitsConfig(name=str(resolution), settings=preparation.Settings(resolution))
      for resolution in (256, 512)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = """
  Give the folder with the images: portrait_faces.zip of HistoGAN unpacked, ArtGAN's
  WikiArt with its genre tables, the shards of huggan/wikiart, or any folder of images.
  """

  def __init__(self, *, file_format: str | tfds.core.FileFormat | None = None, **kwargs: Any):
    # Training reads records in any order, which TFDS's default format does not allow.
    super().__init__(file_format=file_format or tfds.core.FileFormat.ARRAY_RECORD, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    settings = self.builder_config.settings
    return tfds.core.DatasetInfo(
        builder=self,
        description='Images with their short sides resized, split into train, validation, test.',
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
            'name': tfds.features.Text(),
        }),
        # The order of the names: shuffling is the pipeline's work.
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(
            resolution=settings.resolution, split_seed=settings.split_seed,
            quality=settings.quality, genre=str(self.builder_config.genre),
            transparency=settings.transparency, crops=list(settings.crops)))

  def open_source(self, dl_manager: tfds.download.DownloadManager) -> ImageDataset:
    """Opens the source of the data set."""
    location = self.builder_config.portraits_dir or str(dl_manager.manual_dir)
    return open_dataset(location, self.builder_config.genre)

  def _split_generators(
      self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    portraits, settings = self.open_source(dl_manager), self.builder_config.settings
    spool, prepared = _Spool(os.fspath(self.data_path)), []
    for image in tqdm.tqdm(
        preparation.prepare_images(portraits, settings),
        total=len(portraits), unit='image', desc='preparing', disable=None):
      spool.append(image.data)
      prepared.append(image.without_data())
    plan = split_plan.plan(prepared, settings)
    write_report(plan, os.fspath(self.data_path))
    progress = tqdm.tqdm(total=plan.report()['images'], unit='image', desc='writing', disable=None)
    return {split: self._generate_examples(split, plan, prepared, spool, progress)
            for split in plan.splits}

  def _generate_examples(
      self, split: str, plan: split_plan.Plan, prepared: list[preparation.Prepared],
      spool: '_Spool', progress: tqdm.tqdm
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the records of a split, numbered in its order."""
    for position in plan.splits[split]:
      progress.update()
      for number, name, data in zip(
          plan.places(split, position), prepared[position].records, spool.read(position),
          strict=False):
        yield number, {'image': data, 'name': name}


class _Spool:
  """Encoded images in a file without a name, for the time until all have been read.

  Only then it shows which split an image is in.
  """

  def __init__(self, folder: str):
    self._file = tempfile.TemporaryFile(dir=folder)
    self._ends: list[list[int]] = []  # of the pieces of each image, after where it begins

  def append(self, pieces: Sequence[bytes]) -> None:
    self._ends.append(list(itertools.accumulate(map(len, pieces), initial=self._file.tell())))
    for piece in pieces:
      self._file.write(piece)

  def read(self, position: int) -> Iterator[bytes]:
    for start, end in itertools.pairwise(self._ends[position]):
      self._file.seek(start)
      yield self._file.read(end - start)


def write_report(plan: split_plan.Plan, folder: str) -> None:
  """Writes what was kept and what not beside the shards."""
  text = json.dumps(plan.report(), indent=2, ensure_ascii=False)
  # Names of files need not be Unicode.
  with open(os.path.join(folder, REPORT), 'w', encoding='utf-8', errors='backslashreplace') as file:
    file.write(text + '\n')
