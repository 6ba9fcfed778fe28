"""The preparation of `wikiart_portraits` on Apache Beam, for collections too large for one host."""

from collections.abc import Iterator
import dataclasses
import os
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds

from input_pipeline import preparation
from input_pipeline.portraits import Portraits, open_portraits
from input_pipeline.wikiart_portraits import PortraitsConfig, WikiartPortraits, write_report

# Position in the collection and what became of the image.
_Item = tuple[int, preparation.Prepared]


class _Prepare(beam.DoFn):
  """Prepares images by their positions; each worker opens the collection once."""

  def __init__(self, location: str, config: PortraitsConfig):
    self._location = location
    self._genre, self._resolution, self._quality = (
        config.genre, config.resolution, config.quality)
    self._portraits: Portraits | None = None

  def setup(self) -> None:
    self._portraits = open_portraits(self._location, self._genre)

  def process(self, position: int) -> Iterator[_Item]:
    yield position, preparation.prepare_image(
        self._portraits, position, self._resolution, self._quality)


class BeamWikiartPortraits(WikiartPortraits, skip_registration=True):
  """The same data set, prepared and written by the workers of a Beam runner."""

  name = WikiartPortraits.name

  def _split_generators(
      self, dl_manager: tfds.download.DownloadManager, pipeline: beam.Pipeline
  ) -> dict[str, beam.PCollection]:
    portraits, config = self.open_source(dl_manager), self.builder_config
    prepared = (
        pipeline
        | 'Positions' >> beam.Create(range(len(portraits)))
        | 'Spread' >> beam.Reshuffle()
        | 'Prepare' >> beam.ParDo(_Prepare(portraits.source.location, config)))
    plan = (
        prepared
        | 'WithoutData' >> beam.MapTuple(_without_data)
        | 'Gather' >> beam.combiners.ToList()
        | 'Plan' >> beam.Map(_plan, config.split_seed))
    _ = plan | 'Report' >> beam.Map(write_report, os.fspath(self.data_path))
    return {
        split: prepared | f'Select_{split}' >> beam.FlatMap(
            _select, split, beam.pvalue.AsSingleton(plan))
        for split in preparation.SPLITS}


def _without_data(position: int, image: preparation.Prepared) -> _Item:
  return position, dataclasses.replace(image, data=b'')


def _plan(items: list[_Item], split_seed: int) -> preparation.Plan:
  return preparation.plan([image for _, image in sorted(items, key=lambda item: item[0])],
                          split_seed)


def _select(
    item: _Item, split: str, plan: preparation.Plan) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields an image with its place in the split if it belongs there."""
  position, image = item
  place = plan.place(split, position)
  if place is not None:
    yield place, {'image': image.data, 'name': image.name}
