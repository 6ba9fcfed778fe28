"""Settings that every test shares."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True, scope='session')
def exact_products():
  """Parity is measured in float32, wherever the tests run."""
  jax.config.update('jax_default_matmul_precision', 'float32')
