"""Addresses are refused by name, wherever they stand; paths are not."""

import pytest

from mat_jax.errors import UserError
from mat_jax.runtime.storage import remote_paths


@pytest.mark.parametrize('value', ['runs/a', '/data/x', r'C:\runs', 'c://x', 'a:b', '', None, 3, 0.5,
                                   ['a', 'b'], {'eval': {'split': 'test'}}, b'gs://x'])
def test_paths_and_numbers_pass(value):
  remote_paths.refuse('--workdir', value)


@pytest.mark.parametrize('value, name', [
    ('gs://bucket/runs', '--config'), (['a', 's3://bucket/a.png'], '--config'),
    ({'eval': {'checkpoint': 'hdfs://x/y'}}, '--config.eval.checkpoint')])
def test_addresses_are_refused_by_name(value, name):
  with pytest.raises(UserError, match=rf'^{name} is (gs|s3|hdfs)://\S+, but .* not supported'):
    remote_paths.refuse('--config', value)


def test_some_settings_may_be_in_buckets_of_one_kind():
  names = ['--workdir', '--config.init_from']
  for name, value in (('--workdir', 'gs://bucket/run'), ('--config', {'init_from': 'gs://b/x'})):
    remote_paths.refuse(name, value, names)
  for name, value, message in (
      ('--workdir', 's3://bucket/run', r'^--workdir is s3://.*, or gs://BUCKET/NAME'),
      ('--config', {'data_dir': 'gs://b/x'}, '^--config.data_dir is gs://b/x, but gs:// is not')):
    with pytest.raises(UserError, match=message):
      remote_paths.refuse(name, value, names)
