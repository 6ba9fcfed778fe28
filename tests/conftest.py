"""What the tests share: exact products, and one small trained model."""

import gc
import os
import re

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# What is compiled here runs a few times only; XLA's last passes would take longer than they
# save. XLA_FLAGS= in the environment tests with them.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=1')

# Not in the user's cache, but kept from one run of the tests to the next.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), '.pytest_cache', 'programs'))

# Also what compiles in less than a second: there are thousands of such programs.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

# ruff: noqa: E402
import jax
import ml_collections
import pytest

from configs import tiny
from eval import evaluate
import main
from mat_jax.runtime.storage import disk


@pytest.fixture(autouse=True, scope='session')
def exact_products():
  """Parity is measured in float32, wherever the tests run."""
  jax.config.update('jax_default_matmul_precision', 'float32')


@pytest.fixture(autouse=True, scope='session')
def rare_collection():
  """Garbage is collected seldom: traced programs are many objects, and nearly all of them stay."""
  gc.freeze()
  gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True, scope='session')
def impatience():
  """Reads that fail are tried again at once."""
  disk.DELAYS = (0.0, 0.0, 0.0)


def tiny_config(steps: int = 4) -> ml_collections.ConfigDict:
  """The configuration of tiny.py shrunk to a few steps of four images of 32 px."""
  config = tiny.get_config()
  config.model.resolution = 32
  config.train.batch_size = 4
  config.train.total_kimg = steps * 0.004
  config.train.kimg_per_tick = 0.008
  config.train.snapshot_ticks = 1
  config.train.r1_interval = 2
  config.train.sample_images = 2
  config.eval.batch_size = 2
  config.eval.masks_per_image = 2
  return config


@pytest.fixture(scope='session')
def trained(tmp_path_factory) -> tuple[str, ml_collections.ConfigDict]:
  """A workdir after four steps, and its config."""
  workdir = str(tmp_path_factory.mktemp('trained'))
  config = tiny_config()
  main.train(config, workdir, evaluate.make_validation(config))
  return workdir, config


@pytest.fixture(scope='session')
def bucket_server():
  """A Cloud Storage server that TensorStore takes for Google's."""
  from tests.support.bucket_server import BucketServer

  with BucketServer().running() as server, pytest.MonkeyPatch.context() as patch:
    patch.setenv('TENSORSTORE_GCS_HTTP_URL', server.url)
    yield server


@pytest.fixture
def bucket(bucket_server, request):
  """The address of a folder in a bucket, of this test alone, and the server."""
  name = re.sub(r'[^a-z0-9]+', '-', request.node.nodeid.lower())
  return f'gs://bucket/{name}', bucket_server


@pytest.fixture
def bucket_copies(tmp_path, monkeypatch):
  """A cache folder of the test for data of buckets, and a way to be another process."""
  import platformdirs

  from mat_jax.runtime.storage import bucket_cache

  monkeypatch.setattr(platformdirs, 'user_cache_dir', lambda name: str(tmp_path / 'cache' / name))
  bucket_cache._cached.cache_clear()
  yield bucket_cache._cached.cache_clear
  bucket_cache._cached.cache_clear()


@pytest.fixture
def put(tmp_path):
  """Writes bytes to a file whose name says nothing about what is in it."""
  def write(data):
    path = tmp_path / 'checkpoint.bin'
    path.write_bytes(data)
    return path
  return write
