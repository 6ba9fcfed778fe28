"""Image data sets in any kind of storage, and their splits."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import random
import zipfile

from absl import logging
import numpy as np

from input_pipeline.sources import folder
from input_pipeline.sources.source import Source
from mat_jax.errors import UserError
from mat_jax.runtime import images
from mat_jax.runtime.folders import list_files
from mat_jax.runtime.storage import bucket_cache

SAMPLES = 'samples'
SPLITS = ('train', 'validation', 'test')

_SAMPLES_DIR = pathlib.Path(__file__).parent / 'samples'
_RECORDS_INFO = 'dataset_info.json'
# OUTPUT/NAME/CONFIG/VERSION/dataset_info.json is the deepest that TFDS writes.
_RECORDS_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class ImageDataset:
  """The images of a source, or of a part of it, in a fixed order.

  Attributes:
    source: where they are.
    positions: of these images among the source's.
  """
  source: Source
  positions: Sequence[int]

  def __len__(self) -> int:
    return len(self.positions)

  def name(self, index: int) -> str:
    """Returns an image's path or what stands for one, for messages."""
    return f'{self.source.location}/{self.source.name(self.positions[index])}'

  def stems(self) -> list[str]:
    """Returns the names of all images, relative to their source and without endings."""
    return [os.path.splitext(self.source.name(position))[0] for position in self.positions]

  def load(self, index: int, resolution: int, crop: str = 'top',
           rng: np.random.Generator | None = None) -> np.ndarray:
    """Reads an image as a square.

    Args:
      index: in [0, len).
      resolution: side in pixels.
      crop: see `images.square`.
      rng: see `images.square`.

    Returns:
      uint8 [resolution, resolution, 3].

    Raises:
      UserError: an image that cannot be read, by its name.
    """
    try:
      data = self.source.read(self.positions[index])
      image = images.decode(data, None if crop == 'random_crop' else resolution)
    # Archives and decoders meet broken files with errors of many types.
    except Exception as error:
      raise UserError(f'the image {self.name(index)!r} cannot be read ({images.reason(error)}); '
                      'repair or remove it') from error
    return images.square(image, resolution, crop, rng)

  def split(self, name: str, seed: int = 123) -> 'ImageDataset':
    """Returns a part of the images: 85 % train, 10 % validation, 5 % test.

    Which image is in which part depends on the seed and on the images' names alone,
    not on where they lie. With three images or more no part is empty. Images that
    are stored in splits keep to these.

    Args:
      name: 'train', 'validation', 'test', 'all' or several joined by '+'.
      seed: of the shuffle.

    Raises:
      UserError: unknown name, a part without images, or stored splits of another seed.
    """
    names = name.split('+')
    for part in names:
      if part not in (*SPLITS, 'all'):
        raise UserError(
            f"unknown split {part!r}; use {', '.join(SPLITS)}, all or several joined by '+'")
    parts = _stored_splits(self.source, seed) or draw_splits(len(self), seed)
    parts['all'] = range(len(self))
    selected = sorted(set().union(*(parts[part] for part in names)))
    if not selected:
      raise UserError(f'the split {name!r} of {len(self)} images is empty; give at least '
                      f'{len(SPLITS)} images')
    return ImageDataset(self.source, [self.positions[i] for i in selected])


def _stored_splits(source: Source, seed: int) -> dict[str, Sequence[int]] | None:
  """Returns the splits that a source comes with, None if it lacks one of the three."""
  if source.splits is None or not set(SPLITS) <= set(source.splits):
    return None
  if source.split_seed not in (None, seed):
    raise UserError(
        f'{source.location!r} was split with the seed {source.split_seed}; set '
        f'--config.data.split_seed={source.split_seed} or prepare it with --split_seed={seed}')
  return {name: source.splits[name] for name in SPLITS}


def draw_splits(count: int, seed: int, with_test: bool = True) -> dict[str, Sequence[int]]:
  """Splits the numbers below `count`; see `ImageDataset.split`.

  Args:
    count: how many.
    seed: of the shuffle.
    with_test: False leaves the test split empty and gives its share to training.
  """
  shuffled = list(range(count))
  random.Random(seed).shuffle(shuffled)
  # Integers: 0.85 * n rounds differently for some n.
  num_validation = max(1, count // 10)
  num_train = min(count * 85 // 100, count - num_validation - 1)
  if not with_test:
    num_train = count - num_validation
  if count < (len(SPLITS) if with_test else 2):
    num_train, num_validation = count, 0
  end = num_train + num_validation
  return {'train': shuffled[:num_train], 'validation': shuffled[num_train:end],
          'test': shuffled[end:]}


def open_dataset(data_dir: str, genre: str = '') -> ImageDataset:
  """Opens an image data set after detecting its kind.

  Args:
    data_dir: a folder of images, searched recursively; a zip archive of them; a folder
      of ArtGAN's WikiArt with `genre_train.csv` or `genre_val.csv`; parquet shards
      as of huggan/wikiart, a folder or a file; a TensorFlow data set; or 'samples'
      for the portraits that come with the project (a folder of your own with that
      name: './samples'). One in a bucket is copied into the user's cache folder.
    genre: name or number of the genre to take where the data set has genres (the
      tables and the shards), '' for all.

  Returns:
    All its images, sorted by their names.

  Raises:
    UserError: nothing there, nothing readable, no images or none of that genre.
  """
  location = str(data_dir)
  if not location:
    raise UserError('data_dir is empty; set --config.data_dir to a folder of images')
  root = _SAMPLES_DIR if location == SAMPLES else (
      pathlib.Path(bucket_cache.local_path(location)).expanduser())
  if not root.exists():
    raise UserError(f'the image folder {location!r} does not exist; give an existing folder, a zip '
                    f'archive or {SAMPLES!r}')
  source = _open_folder(location, root, genre) if root.is_dir() else _open_file(
      location, root, genre)
  return ImageDataset(source, range(len(source)))


def _open_file(location: str, path: pathlib.Path, genre: str) -> Source:
  # Modules of libraries that only some users need are loaded where they are.
  if path.suffix.lower() == '.parquet':
    from input_pipeline.sources import parquet
    return parquet.ParquetSource(location, path.parent, [path.name], genre)
  if zipfile.is_zipfile(path) or path.suffix.lower() == '.zip':
    from input_pipeline.sources import archive
    return archive.ZipSource(location, path)
  raise UserError(f'{location!r} is a file, but neither a zip archive nor a .parquet file; give '
                  'the folder that holds the images')


def _open_folder(location: str, root: pathlib.Path, genre: str) -> Source:
  files, outside = list_files(root)
  if outside:
    logging.warning('%d links that lead out of %s are left out, %s for one.', len(outside),
                    location, outside[0])
  records = [file for file in files if file.count('/') <= _RECORDS_DEPTH
             and file.rpartition('/')[2] == _RECORDS_INFO]
  if len(records) > 1:
    raise UserError(f'{location!r} holds several data sets; give one of '
                    f'{", ".join(os.path.dirname(str(root / file)) for file in records)}')
  if records:
    from input_pipeline.sources import array_records as records_source
    return records_source.RecordsSource(location, (root / records[0]).parent)
  shards = [file for file in files if file.lower().endswith('.parquet')]
  if shards:
    from input_pipeline.sources import parquet
    return parquet.ParquetSource(location, root, shards, genre)
  if any(table in files for table in folder.TABLES):
    return folder.artgan(location, root, files, genre)
  names = [file for file in files if images.has_image_suffix(file)]
  if names:
    return folder.FolderSource(location, root, names)
  archives = [file for file in files if file.lower().endswith('.zip')]
  hint = (f'give the archive {str(root / archives[0])!r} itself' if archives else
          'put .jpg, .png, .webp or other image files there')
  raise UserError(f'the folder {location!r} holds no images; {hint}')
