"""Files with published weights: recognised by checksum, cached, downloaded when missing."""

from collections.abc import Collection
import dataclasses
import fnmatch
import hashlib
import os

from absl import logging

from mat_jax.errors import UserError
from mat_jax.runtime.storage import new_files

_CACHE = 'mat-jax'  # folder inside the user's cache folder
_TIMEOUT = 30  # seconds without an answer


@dataclasses.dataclass(frozen=True)
class PublishedFile:
  """A weight file that others publish.

  Attributes:
    network: what it holds.
    pattern: how its name may look.
    url: where it comes from.
    sha256_starts: how its checksum starts; several where the same weights were
      published in several files.
    licence: of the weights.
  """

  network: str
  pattern: str
  url: str
  sha256_starts: tuple[str, ...]
  licence: str

  @property
  def name(self) -> str:
    """File name at its source."""
    return self.url.rpartition('/')[2]


_TORCHVISION = 'https://download.pytorch.org/models/'
_PYTORCH_FID = 'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
PUBLISHED = {file.network: file for file in (
    PublishedFile('vgg19', 'vgg19-dcbb9e9d.pth', f'{_TORCHVISION}vgg19-dcbb9e9d.pth',
                  ('dcbb9e9d',), 'BSD 3-Clause, trained on ImageNet'),
    PublishedFile('vgg16', 'vgg16-397923af.pth', f'{_TORCHVISION}vgg16-397923af.pth',
                  ('397923af',), 'BSD 3-Clause, trained on ImageNet'),
    PublishedFile('inception', '*inception-2015-12-05-6726825d.pth',
                  f'{_PYTORCH_FID}pt_inception-2015-12-05-6726825d.pth', ('6726825d',),
                  'Apache 2.0'),
)}


def identify(path: str, networks: Collection[str]) -> str:
  """Tells by its checksum which published file a file is.

  Args:
    path: the file, under any name.
    networks: keys of `PUBLISHED` that it may be.

  Returns:
    One of `networks`.

  Raises:
    UserError: it cannot be read, or is none of them.
  """
  found = sha256(path)
  for network in networks:
    if found.startswith(PUBLISHED[network].sha256_starts):
      return network
  wanted = ' or '.join(PUBLISHED[network].name for network in networks)
  starts = ' or '.join(start for network in networks
                       for start in PUBLISHED[network].sha256_starts)
  raise UserError(f'{path} is not {wanted}: its sha256 starts with {found[:8]}, expected '
                  f'{starts}; download it again')


def sha256(path: str) -> str:
  """The checksum of a file in hexadecimal; UserError if it cannot be read."""
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror or error}.') from error


def fetch(network: str) -> str:
  """Finds a published file in the cache, or downloads it there.

  Args:
    network: a key of `PUBLISHED`.

  Returns:
    Path of the file, its checksum verified.

  Raises:
    UserError: it is not there and cannot be downloaded, or is another file.
  """
  import pooch  # what reads files alone can do without it

  published = PUBLISHED[network]
  folder = os.fspath(pooch.os_cache(_CACHE))
  names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  for name in fnmatch.filter(names, published.pattern):
    identify(os.path.join(folder, name), [network])
    return os.path.join(folder, name)
  path = os.path.join(folder, published.name)
  _download(published, path)
  return path


def _download(published: PublishedFile, path: str) -> None:
  import pooch
  import requests

  logging.info('Downloading %s (%s weights, %s) to %s.', published.url, published.network,
               published.licence, path)
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
  except OSError as error:
    raise UserError(f'{os.path.dirname(path)} cannot be created: {error.strerror}') from error
  with new_files.new_file(path) as file:
    try:
      pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20, timeout=_TIMEOUT)(
          published.url, file, None)
    except requests.RequestException as error:
      raise UserError(
          f'the {published.network} weights are not here and cannot be downloaded '
          f'({type(error).__name__}); get {published.url} elsewhere and put it at '
          f'{path}') from error
    file.flush()
    identify(file.name, [published.network])
