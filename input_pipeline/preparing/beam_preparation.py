"""The preparation of `wikiart_portraits` on Apache Beam, for data sets too large for one host."""

from collections.abc import Iterator
import os
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds

from input_pipeline.image_dataset import SPLITS, ImageDataset, open_dataset
from input_pipeline.preparing import preparation, split_plan
from input_pipeline.wikiart_portraits import WikiartPortraits, write_report

# Position in the data set, and the prepared image.
_Item = tuple[int, preparation.Prepared]


class _Prepare(beam.DoFn):
  """Prepares images by their positions; each worker opens the data set once."""

  def __init__(self, location: str, genre: str, settings: preparation.Settings):
    self._location, self._genre, self._settings = location, genre, settings
    self._portraits: ImageDataset | None = None

  def setup(self) -> None:
    self._portraits = open_dataset(self._location, self._genre)

  def process(self, position: int) -> Iterator[_Item]:
    assert self._portraits is not None
    yield position, preparation.prepare_image(self._portraits, position, self._settings)


# The keyword goes to TFDS, which has no types.
class BeamWikiartPortraits(  # type: ignore[call-arg]
    WikiartPortraits, skip_registration=True):
  """The same data set, prepared and written by the workers of a Beam runner."""

  name = WikiartPortraits.name

  def _split_generators(  # type: ignore[override]  # TFDS looks for the second argument.
      self, dl_manager: tfds.download.DownloadManager, pipeline: beam.Pipeline
  ) -> dict[str, beam.PCollection]:
    portraits, settings = self.open_source(dl_manager), self.builder_config.settings
    prepared = (
        pipeline
        | 'Positions' >> beam.Create(range(len(portraits)))
        | 'Spread' >> beam.Reshuffle()
        | 'Prepare' >> beam.ParDo(_Prepare(
            portraits.source.location, self.builder_config.genre, settings)))
    plan = (
        prepared
        | 'WithoutData' >> beam.MapTuple(_without_data)
        | 'Gather' >> beam.combiners.ToList()
        | 'Plan' >> beam.Map(_plan, settings))
    _ = plan | 'Report' >> beam.Map(write_report, os.fspath(self.data_path))
    return {
        split: prepared | f'Select_{split}' >> beam.FlatMap(
            _select, split, beam.pvalue.AsSingleton(plan))
        for split in SPLITS}


def _without_data(position: int, image: preparation.Prepared) -> _Item:
  return position, image.without_data()


def _plan(items: list[_Item], settings: preparation.Settings) -> split_plan.Plan:
  return split_plan.plan([image for _, image in sorted(items, key=lambda item: item[0])], settings)


def _select(
    item: _Item, split: str, plan: split_plan.Plan) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the records of an image with their numbers in the split if it belongs there."""
  position, image = item
  for number, name, data in zip(
      plan.places(split, position), image.records, image.data, strict=False):
    yield number, {'image': data, 'name': name}
