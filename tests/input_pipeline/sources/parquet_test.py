"""Parquet shards as huggan/wikiart has them."""

from concurrent import futures
import io
import json

from PIL import Image
import pyarrow
from pyarrow import parquet as pq
import pytest

from input_pipeline import image_dataset
from input_pipeline.sources import parquet
from mat_jax.errors import UserError

NAMES = ['abstract_painting', 'cityscape', 'genre_painting', 'illustration', 'landscape',
         'nude_painting', 'portrait', 'religious_painting', 'sketch_and_study', 'still_life',
         'Unknown Genre']


def png(level):
  file = io.BytesIO()
  Image.new('RGB', (20, 24), (level, 0, 0)).save(file, 'PNG')
  return file.getvalue()


def shard(path, levels_and_genres, row_group_size=4, names=NAMES):
  """Writes a shard with images of one level each."""
  levels, genres = zip(*levels_and_genres, strict=True)
  table = pyarrow.table({
      'image': [None if level is None else {'bytes': png(level), 'path': None}
                for level in levels],
      'artist': pyarrow.array([0] * len(levels)),
      'genre': pyarrow.array(genres),
  })
  if names:
    info = {'info': {'features': {'genre': {'names': names, '_type': 'ClassLabel'}}}}
    table = table.replace_schema_metadata({'huggingface': json.dumps(info)})
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(table, path, row_group_size=row_group_size)


@pytest.fixture
def wikiart(tmp_path):
  """Ten images of growing levels in two shards; the even ones are portraits."""
  rows = [(i, 6 if i % 2 == 0 else i % 6) for i in range(10)]
  shard(tmp_path / 'data' / 'train-00000-of-00002.parquet', rows[:6])
  shard(tmp_path / 'data' / 'train-00001-of-00002.parquet', rows[6:])
  (tmp_path / 'preview.png').write_bytes(png(200))
  return str(tmp_path)


def levels(collection):
  return [int(collection.load(i, 16)[0, 0, 0]) for i in range(len(collection))]


@pytest.mark.parametrize('genre', ['portrait', '6', 6])
def test_the_images_of_a_genre(wikiart, genre):
  assert levels(image_dataset.open_dataset(wikiart, genre)) == [0, 2, 4, 6, 8]


def test_all_images_and_one_file(wikiart):
  assert levels(image_dataset.open_dataset(wikiart)) == list(range(10))
  file = f'{wikiart}/data/train-00001-of-00002.parquet'
  assert levels(image_dataset.open_dataset(file, 'portrait')) == [6, 8]


def test_names_are_unique_and_sorted(wikiart):
  stems = image_dataset.open_dataset(wikiart).stems()
  assert len(set(stems)) == 10 and stems == sorted(stems)


def test_threads_and_a_small_memory(wikiart, monkeypatch):
  monkeypatch.setattr(parquet, '_CACHE_BYTES', 1)
  collection = image_dataset.open_dataset(wikiart)
  order = [i * 7 % 10 for i in range(100)]
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda i: int(collection.load(i, 8)[0, 0, 0]), order))
  assert found == order


def test_genres_without_names_in_the_schema(tmp_path):
  shard(tmp_path / 'a.parquet', [(1, 6), (2, 10), (3, None)], names=None)
  assert levels(image_dataset.open_dataset(str(tmp_path), 'portrait')) == [1]
  assert levels(image_dataset.open_dataset(str(tmp_path), 'unknown genre')) == [2]


def test_binary_images(tmp_path):
  table = pyarrow.table({'image': [png(3), png(4)]})
  pq.write_table(table, tmp_path / 'a.parquet')
  assert levels(image_dataset.open_dataset(str(tmp_path))) == [3, 4]
  with pytest.raises(UserError, match="a.parquet.*no column 'genre'.*config.data.genre=''"):
    image_dataset.open_dataset(str(tmp_path), 'portrait')


def test_rows_without_an_image_are_named(tmp_path):
  shard(tmp_path / 'a.parquet', [(1, 6), (None, 6)])
  collection = image_dataset.open_dataset(str(tmp_path), 'portrait')
  with pytest.raises(UserError, match='a.parquet/0000-000001.*no bytes'):
    collection.load(1, 16)


def test_wrong_shards(tmp_path, wikiart):
  with pytest.raises(UserError, match="no genre 'selfie'.*portrait .6."):
    image_dataset.open_dataset(wikiart, 'selfie')
  with pytest.raises(UserError, match="no image of the genre 'still_life', but.*portrait"):
    image_dataset.open_dataset(wikiart, 'still_life')
  pq.write_table(pyarrow.table({'text': ['a']}), tmp_path / 'b.parquet')
  with pytest.raises(UserError, match="b.parquet.*no column 'image'.*but text"):
    image_dataset.open_dataset(str(tmp_path / 'b.parquet'))
  (tmp_path / 'c.parquet').write_bytes((tmp_path / 'b.parquet').read_bytes()[:100])
  with pytest.raises(UserError, match='c.parquet.*not a readable parquet file'):
    image_dataset.open_dataset(str(tmp_path / 'c.parquet'))
