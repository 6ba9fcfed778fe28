"""Objects on a server on loopback."""

import errno
import os

import pytest

from mat_jax.runtime.storage import buckets, disk


def _name(address):
  return address.removeprefix('gs://bucket/')


def test_an_object_is_read_as_it_was_written(bucket):
  address, server = bucket
  assert buckets.read(f'{address}/a').data is None
  for data in (b'', b'\x00\xff' * 1000):
    buckets.write(f'{address}/a', data)
    assert buckets.read(f'{address}/a').data == buckets.read_file(f'{address}/a') == data
    assert server.read(f'{_name(address)}/a') == data
  buckets.remove(f'{address}/a')
  with pytest.raises(FileNotFoundError) as caught:
    buckets.read_file(f'{address}/a')
  assert caught.value.filename == f'{address}/a'


def test_a_condition_keeps_two_writers_apart(bucket):
  path = bucket[0] + '/a'
  absent = buckets.read(path)
  first = buckets.write(path, b'1', only_over=absent.generation)
  assert first and buckets.write(path, b'2', only_over=absent.generation) is None
  assert buckets.write(path, b'3', only_over=first) not in (None, first)
  assert buckets.write(path, b'4', only_over=first) is None
  buckets.remove(path, only_over=first)
  assert buckets.read(path).data == b'3'


def test_a_folder_is_what_the_names_say(bucket, tmp_path):
  address, server = bucket
  for name in ('run/b/c', 'run/a', 'run2/x', 'run', 'run/empty/', 'run//x'):
    server.write(f'{_name(address)}/{name}', name.encode())
  for folder in (f'{address}/run', f'{address}/run/'):
    assert buckets.walk(folder) == ['a', 'b/c']
    assert buckets.listed(folder) == disk.listed(folder) == ['a', 'b']
  assert buckets.walk(f'{address}/ru') == []
  assert buckets.download(f'{address}/run', str(tmp_path)) == ['a', 'b/c']
  assert (tmp_path / 'b' / 'c').read_bytes() == b'run/b/c'
  with pytest.raises(FileNotFoundError):
    buckets.download(f'{address}/run', str(tmp_path), ['a', 'no'])
  assert [disk.exists(f'{address}/{name}') for name in ('run', 'run/b', 'run/a', 'ru')] == [
      True, True, True, False]
  assert [disk.is_folder(f'{address}/{name}') for name in ('run', 'run/b', 'run/a', 'ru')] == [
      True, True, False, False]


def test_names_that_lead_out_of_a_folder_are_left_out(monkeypatch):
  class Store:
    def list(self):
      return self

    def result(self):
      return [b'a/b', b'../a', b'/etc/x', b'a/../../b', b'.', b'a//b', b'', b'c/', b'..a/...']

  monkeypatch.setattr(buckets, '_store', lambda path: Store())
  assert buckets.walk('gs://bucket/run') == ['..a/...', 'a/b']


def test_the_last_object_comes_last_and_goes_first(bucket, tmp_path):
  address, server = bucket
  names = [f'{i:02}' for i in range(20)]
  for name in names:
    (tmp_path / name).write_text(name)
  before = len(server.requests)
  buckets.upload(str(tmp_path), f'{address}/a', buckets.files_of(str(tmp_path)), last='03')
  buckets.move(f'{address}/a', f'{address}/b', last='03')
  assert buckets.walk(f'{address}/a') == [] and buckets.walk(f'{address}/b') == names
  buckets.remove_folder(f'{address}/b', first='03', keep=['05'])
  assert buckets.walk(f'{address}/b') == ['05']
  changes = {(folder, method): [name for verb, name in server.requests[before:]
                                if verb == method and f'/{folder}/' in name]
             for folder in 'ab' for method in ('POST', 'DELETE')}
  assert len(changes['a', 'POST']) == len(changes['b', 'POST']) == 20
  for folder in 'ab':
    assert changes[folder, 'POST'][-1].endswith('/03')
    assert changes[folder, 'DELETE'][0].endswith('/03')


def test_a_server_that_is_down_for_a_while_costs_a_wait(bucket):
  address, server = bucket
  buckets.write(f'{address}/a', b'1')
  for act in (lambda: buckets.write(f'{address}/b', b'2'), lambda: buckets.read(f'{address}/a'),
              lambda: buckets.walk(address), lambda: buckets.remove(f'{address}/b')):
    refused = server.refused
    server.refuse(requests=1)
    act()
    assert server.refused == refused + 1
  assert buckets.walk(address) == ['a']


@pytest.mark.parametrize('status', [401, 403])
def test_what_is_not_allowed_is_no_damage_and_not_asked_for_again(bucket, status):
  address, server = bucket
  for act in (lambda: buckets.read(f'{address}/a'), lambda: buckets.walk(address),
              lambda: buckets.write(f'{address}/a', b'')):
    refused = server.refused
    server.refuse(requests=9, status=status)
    with pytest.raises(PermissionError) as caught:
      act()
    assert server.refused <= refused + 3 and not disk.classify(caught.value).is_damage
  server.refuse()


@pytest.mark.parametrize('address, code', [
    ('gs://no-such-bucket/a', errno.ENOENT), ('gs://', errno.EINVAL), ('gs://B/a', None)])
def test_errors_are_the_systems(bucket_server, address, code):
  with pytest.raises(OSError) as caught:
    buckets.write(address, b'')
  assert caught.value.filename == address and caught.value.strerror
  assert code in (None, caught.value.errno)


def test_addresses_and_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert buckets.absolute('gs://b/x//') == 'gs://b/x'
  assert buckets.absolute('x/') == os.path.join(os.getcwd(), 'x')
  assert not buckets.is_address('gs:/b') and not buckets.is_address('s3://b/x')
