import errno
import json
import os

import pytest
import tensorflow as tf

from mat_jax.runtime.storage import disk
from mat_jax.runtime.storage.disk import DamagedError, Fault, UnreachableError

_PAYLOADS = ("[tensorstore_spec='{\\\"driver\\\":\\\"zarr\\\"}']\n"
             "[source locations='tensorstore/kvstore/file.cc:1']")


def _failing(monkeypatch, function, *errors):
  """Lets the first calls of a function of `os` fail; returns the delays before the others."""
  real, rest, delays = getattr(os, function), list(errors), []

  def call(*args, **kwargs):
    if rest:
      raise rest.pop(0)
    return real(*args, **kwargs)

  monkeypatch.setattr(os, function, call)
  monkeypatch.setattr(disk.time, 'sleep', delays.append)
  monkeypatch.setattr(disk, 'DELAYS', (0.5, 1.0, 2.0))
  return delays


@pytest.mark.parametrize('code', ['EIO', 'ESTALE', 'EACCES', 'ENOSPC', 'EMFILE', 'ETIMEDOUT',
                                  'ECONNRESET', 'EROFS', 'ELOOP'])
def test_what_the_system_reports_is_no_damage(code):
  number = getattr(errno, code)
  text = os.strerror(number)
  assert disk.classify(OSError(number, text, 'file')) == Fault(False, True, text)
  below = ValueError(f'UNKNOWN: Error opening "zarr" driver: Error reading local file "x": {text} '
                     f"[os_error_code='{number}'] {_PAYLOADS}")
  assert disk.classify(below) == Fault(False, True, text)
  last = ValueError(f"ABORTED: Failed to read {_PAYLOADS[:-1]}] [os_error_code='{number}']")
  assert disk.classify(last) == Fault(False, True, text)


@pytest.mark.parametrize('code', ['ENOENT', 'ENOTDIR', 'EISDIR'])
def test_what_is_not_there_is_damage(code):
  number = getattr(errno, code)
  assert disk.classify(OSError(number, os.strerror(number))).is_damage
  assert disk.classify(ValueError(f"NOT_FOUND: x [os_error_code='{number}']")).is_damage


@pytest.mark.parametrize('text', [
    'DATA_LOSS: Error opening "cast" driver: Error decoding manifest: CRC-32C checksum '
    'verification failed: expected=1, actual=2',
    'OUT_OF_RANGE: Error reading "x/0.0" in OCDBT database: Requested byte range [0, 476) is not '
    'valid for value of size 238',
    'NOT_FOUND: Error opening "zarr" driver: Metadata at "x/.zarray" does not exist',
    'FAILED_PRECONDITION: Error reading "x/0.0": Not enough data: expected at least 2400 or 2400 '
    'more; at byte 0',
    'Error opening "zarr" driver: Error reading "x": Error decoding b-tree node: End of data '
    'expected; remaining length: 6'])
def test_contents_that_tensorstore_finds_wrong_are_damage(text):
  assert disk.classify(ValueError(f'{text} {_PAYLOADS}')) == Fault(True, False, text)


@pytest.mark.parametrize('error,reason', [
    (ValueError('UNAVAILABLE: no answer'), 'UNAVAILABLE: no answer'),
    (ValueError('something else\nand more'), 'something else'), (KeyError(), 'KeyError'),
    (tf.errors.UnknownError(None, None, '{{function_node __x}} file; Input/output error [Op:y]'),
     'file; Input/output error')])
def test_what_is_not_known_is_no_damage(error, reason):
  assert disk.classify(error) == Fault(False, False, reason)


def test_text_that_is_no_json_is_damage():
  for content in (b'{"a": ', b'', b'\xff{}'):
    with pytest.raises(ValueError) as caught:
      json.loads(content.decode())
    assert disk.classify(caught.value).is_damage


def test_a_disk_that_answers_again_is_read(tmp_path, monkeypatch, caplog):
  (tmp_path / 'file').touch()
  stale = OSError(errno.ESTALE, 'Stale file handle')
  delays = _failing(monkeypatch, 'listdir', stale, stale, stale)
  assert disk.listed(str(tmp_path)) == ['file'] and delays == [0.5, 1.0, 2.0]
  delays = _failing(monkeypatch, 'stat', stale)
  assert disk.is_folder(str(tmp_path)) and not disk.is_folder(str(tmp_path / 'file'))
  assert delays == [0.5] and caplog.text.count('Stale file handle') == 4


def test_a_disk_that_does_not_answer_is_named(tmp_path, monkeypatch):
  delays = _failing(monkeypatch, 'listdir', *[OSError(errno.EIO, 'Input/output error')] * 4)
  with pytest.raises(UnreachableError, match=rf'{tmp_path} cannot be read \(Input/output error\), '
                     'also after 4 attempts; nothing has been changed, start again'):
    disk.listed(str(tmp_path))
  assert delays == [0.5, 1.0, 2.0]
  assert disk.listed(str(tmp_path)) == []


def test_what_is_missing_is_not_asked_for_again(tmp_path, monkeypatch):
  delays = _failing(monkeypatch, 'stat')
  with pytest.raises(DamagedError, match='No such file'):
    disk.read((tmp_path / 'x').read_text, 'x')
  assert disk.listed(str(tmp_path / 'x')) == [] and disk.status(str(tmp_path / 'x')) is None
  assert delays == []


def test_mistakes_in_the_program_are_not_taken_for_a_disk():
  with pytest.raises(AttributeError):
    disk.read(lambda: None.x, 'x')
