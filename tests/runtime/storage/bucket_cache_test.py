"""The cached copy of data in a bucket, on a server on loopback."""

import os

import pytest

from mat_jax.errors import UserError
from mat_jax.runtime.storage import bucket_cache, buckets


def test_a_path_on_the_disk_is_itself():
  assert bucket_cache.local_path('~/x') == '~/x'


def test_what_changed_is_copied_and_what_is_gone_is_removed(bucket, bucket_copies, monkeypatch):
  address, server = bucket
  for name in ('a', 'b/c', 'd'):
    buckets.write(f'{address}/data/{name}', name.encode())
  local = bucket_cache.local_path(f'{address}/data/')
  assert buckets.files_of(local) == ['a', 'b/c', 'd']
  buckets.write(f'{address}/data/a', b'new')
  buckets.remove(f'{address}/data/d')
  before = len(server.requests)
  assert bucket_cache.local_path(f'{address}/data') == local
  assert len(server.requests) == before, 'once in a process'
  bucket_copies()
  copied = []
  changed = buckets.read_changed
  monkeypatch.setattr(buckets, 'read_changed', lambda *args: (
      copied.append(found[0]) or found for found in changed(*args)))
  assert bucket_cache.local_path(f'{address}/data') == local
  assert copied == ['a'] and buckets.files_of(local) == ['a', 'b/c']
  assert buckets.read_file(f'{local}/a') == b'new'


def test_a_file_that_was_lost_or_a_damaged_record_costs_a_copy(bucket, bucket_copies, tmp_path):
  address, _ = bucket
  buckets.write(f'{address}/data/a', b'1')
  local = bucket_cache.local_path(f'{address}/data')
  for path in (f'{local}/a', f'{local}.generations'):
    with open(path, 'wb') as file:
      file.write(b'[]')
    if path.endswith('/a'):
      os.remove(path)
    bucket_copies()
    assert buckets.read_file(bucket_cache.local_path(f'{address}/data') + '/a') == b'1'


def test_a_file_is_copied_without_its_neighbours(bucket, bucket_copies):
  address, _ = bucket
  for name in ('a.zip', 'b.zip'):
    buckets.write(f'{address}/{name}', name.encode())
  local = bucket_cache.local_path(f'{address}/a.zip')
  assert buckets.read_file(local) == b'a.zip'
  assert not buckets.read_file(local + '.generations') == b'{}'
  bucket_copies()
  assert bucket_cache.local_path(f'{address}/a.zip') == local


def test_errors_name_the_address(bucket, bucket_copies, monkeypatch):
  def fail(folder):
    raise OSError(13, 'PERMISSION_DENIED: no', folder)

  monkeypatch.setattr(buckets, 'walk', fail)
  with pytest.raises(UserError, match=f'{bucket[0]} cannot be copied to .*: PERMISSION_DENIED'):
    bucket_cache.local_path(bucket[0])


def test_a_folder_that_is_not_there_is_named_by_its_address(bucket, bucket_copies):
  with pytest.raises(UserError, match=f'there is nothing at {bucket[0]}/nowhere;'):
    bucket_cache.existing_local_path(f'{bucket[0]}/nowhere')
  assert bucket_cache.existing_local_path('nowhere') == 'nowhere'
