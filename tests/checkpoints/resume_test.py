import copy
import logging

import pytest

from mat_jax.checkpoints.resume import check_resume, parse_accepted
from mat_jax.errors import UserError
from tests.support.tiny_state import MODEL

_META = {'model': MODEL, 'images': 33, 'config': {
    'seed': 1, 'accept_changes': '', 'init_from': '', 'model': MODEL,
    'data': {'hole_range': [0.0, 1.0]}, 'eval': {'seed': 0},
    'train': {'batch_size': 8, 'r1_gamma': 10.0}}}


def _changed(images=33, **fields):
  meta = copy.deepcopy(_META)
  meta['images'] = images
  for name, value in fields.items():
    *groups, leaf = name.split('__')
    group = meta['config']
    for part in groups:
      group = group[part]
    group[leaf] = value
  return meta


@pytest.fixture(autouse=True)
def info(caplog):
  caplog.set_level(logging.INFO)


def _check(wanted, accepted=(), found=_META):
  check_resume(found, wanted, 'run/checkpoints/4', accepted)


def test_an_unchanged_run_says_nothing(caplog):
  _check(_changed(data__hole_range=(0.0, 1.0), train__r1_gamma=10))
  assert not caplog.text


def test_other_changes_are_logged(caplog):
  _check(_changed(train__r1_gamma=0.8, eval__seed=3, init_from='x', accept_changes='seed'))
  messages = [record.getMessage() for record in caplog.records]
  assert messages == ['Changed since the checkpoint: eval.seed from 0 to 3.',
                      'Changed since the checkpoint: train.r1_gamma from 10.0 to 0.8.']


def test_fields_of_another_version_are_no_mistake(caplog):
  older = copy.deepcopy(_META)
  del older['images'], older['config']['seed'], older['config']['train']['r1_gamma']
  _check(_changed(images=12, seed=5, model__width=MODEL['width'], train__new=None), found=older)
  assert 'train.r1_gamma from None to 10.0' in caplog.text and 'train.new' not in caplog.text


@pytest.mark.parametrize('wanted,message', [
    (_changed(seed=2), 'seed is 1 there and 2 here; set --config.seed=1 to go on as before, or '
                       '--config.accept_changes=seed to go on with'),
    (_changed(train__batch_size=16), 'train.batch_size is 8 there and 16 here; set '
                                     '--config.train.batch_size=8 .*accept_changes=batch_size'),
    (_changed(images=20), 'training images is 33 there and 20 here; give the same images to go '
                          'on as before, or --config.accept_changes=images'),
    (_changed(seed=2, images=20), 'run/checkpoints/4 .*seed is 1 there and 2 here, the number .*'
                                  '=1 and give the same images .*accept_changes=seed,images'),
])
def test_another_run_is_refused(wanted, message):
  with pytest.raises(UserError, match=message):
    _check(wanted)


def test_changes_can_be_accepted(caplog):
  wanted = _changed(seed=2, train__batch_size=16, images=20)
  _check(wanted, parse_accepted('seed, images,batch_size'))
  for change in ('seed from 1 to 2', 'train.batch_size from 8 to 16', 'images from 33 to 20'):
    assert change in caplog.text
  with pytest.raises(UserError, match='batch_size is 8 .*accept_changes=seed,batch_size,images'):
    _check(wanted, parse_accepted('seed,images'))


def test_the_model_cannot_be_accepted():
  wanted = _changed()
  wanted['model'] = MODEL | {'width': 1.0}
  with pytest.raises(UserError, match='model.width'):
    _check(wanted, parse_accepted('seed'))


def test_names_to_accept_are_checked():
  assert parse_accepted('') == frozenset()
  for attempt in (lambda: parse_accepted('seed,width'), lambda: _check(_META, ['width'])):
    with pytest.raises(UserError, match="'width'; choose among seed, batch_size, images"):
      attempt()
