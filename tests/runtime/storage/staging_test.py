"""Copies of what is in a bucket, on a server on loopback."""

import os

import pytest

from mat_jax.errors import UserError
from mat_jax.runtime.storage import buckets, new_files, staging
from mat_jax.runtime.storage.disk import UnreachableError


def test_a_path_on_the_disk_is_itself(tmp_path):
  for path in ('', str(tmp_path), 'no/such'):
    with staging.local_copy(path) as found:
      assert found == path
    with staging.added_to(path) as found:
      assert found == path


def test_files_and_parts_of_folders_are_copied_for_a_while(bucket):
  address, _ = bucket
  for name in ('run/a', 'run/eval/b', 'run/evaluation', 'run/eval2/c'):
    buckets.write(f'{address}/{name}', name.encode())
  with staging.local_copy(f'{address}/run/eval/b') as file:
    assert os.path.basename(file) == 'b' and buckets.read_file(file) == b'run/eval/b'
  assert not os.path.exists(file)
  with staging.local_copy(f'{address}/run/', ['eval', 'a']) as folder:
    assert buckets.files_of(folder) == ['a', 'eval/b']
  with staging.local_copy(f'{address}/run') as folder:
    assert buckets.files_of(folder) == ['a', 'eval/b', 'eval2/c', 'evaluation']
  with staging.local_copy(f'{address}/no') as folder:
    assert not os.path.exists(folder)


@pytest.mark.parametrize('kind', [UserError, lambda text: UnreachableError(text, 'no answer')])
def test_errors_name_the_address(bucket, kind):
  with pytest.raises(UserError) as caught, staging.local_copy(f'{bucket[0]}/a') as path:
    raise kind(f'{path}/x is wrong')
  assert str(caught.value).startswith(f'{bucket[0]}/a/x is wrong')


def test_a_mirror_copies_what_changes(bucket, tmp_path):
  address, server = bucket
  for name in ('old', 'rows', 'of_others'):
    buckets.write(f'{address}/{name}', name.encode())
  mirror = staging.Mirror(address, str(tmp_path))
  mirror.pull(['old', 'rows'])
  assert buckets.files_of(str(tmp_path)) == ['old', 'rows']
  (tmp_path / 'old').unlink()
  (tmp_path / 'rows').write_text('rows and more')
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'new').write_text('new')
  mirror.push()
  assert buckets.walk(address) == ['a/new', 'of_others', 'rows']
  assert buckets.read_file(f'{address}/rows') == b'rows and more'
  before = len(server.requests)
  mirror.push()
  assert len(server.requests) == before


def test_new_files_appear_when_they_are_complete(bucket):
  path = f'{bucket[0]}/a'
  with new_files.new_file(path) as file:
    file.write(b'1')
    assert buckets.read(path).data is None
  with pytest.raises(KeyError), new_files.new_file(path) as file:
    file.write(b'2')
    raise KeyError
  assert buckets.read(path).data == b'1'


def test_new_folders_are_complete_with_their_last_file(bucket):
  address, server = bucket
  before = len(server.requests)
  with new_files.new_directory(f'{address}/a', 'last') as folder:
    os.makedirs(os.path.join(folder, 'b'))
    for name in ('b/last', 'x', 'z'):
      with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
        file.write(name)
  written = [name for method, name in server.requests[before:] if method == 'POST']
  assert len(written) == 3 and written[-1].endswith('/a/b/last')
  for path in (f'{address}/a', f'{address}/a/x'):
    with pytest.raises(UserError, match=f'{path} exists and is not an empty folder'):
      with new_files.new_directory(path):
        pass
  with pytest.raises(KeyError), new_files.new_directory(f'{address}/c') as folder:
    open(os.path.join(folder, 'x'), 'w', encoding='utf-8').close()
    raise KeyError
  assert buckets.walk(f'{address}/c') == []


def test_a_replaced_folder_has_the_new_files_alone(bucket):
  address, _ = bucket
  for names in ('ab', 'bc'):
    with new_files.replaced_directory(f'{address}/a') as folder:
      for name in names:
        with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
          file.write(names)
    assert buckets.walk(f'{address}/a') == list(names)
    assert buckets.read(f'{address}/a/b').data == names.encode()


def test_what_cannot_be_written_is_named():
  with pytest.raises(UserError, match='gs://no-such-bucket/x cannot be written: .*'):
    with new_files.new_file('gs://no-such-bucket/x'):
      pass
  with (pytest.raises(UserError, match='gs://no-such-bucket/x cannot be written: .*'),
        staging.added_to('gs://no-such-bucket/x') as folder):
    open(os.path.join(folder, 'x'), 'w', encoding='utf-8').close()
