"""Compares a run that is started again with the checkpoint that it resumes from."""

from collections.abc import Collection, Mapping
import json
from typing import Any

from absl import logging

from mat_jax.checkpoints.reader import check_architecture
from mat_jax.errors import UserError

# Fields that determine images and random inputs: name in `config.accept_changes` -> field.
_GUARDED = {'seed': 'seed', 'batch_size': 'train.batch_size', 'images': 'images'}
# Fields that are about starting a run, and one that earlier versions kept in the model.
_IGNORED = ('accept_changes', 'init_from', 'model.formulations')


def parse_accepted(text: str) -> frozenset[str]:
  """The names in `config.accept_changes`, which commas separate.

  Raises:
    UserError: a name that does not exist.
  """
  accepted = frozenset(name.strip() for name in text.split(',') if name.strip())
  _check_names(accepted)
  return accepted


def _check_names(accepted: Collection[str]) -> None:
  for name in sorted(accepted):
    if name not in _GUARDED:
      raise UserError(f'accept_changes has {name!r}; choose among {", ".join(_GUARDED)}')


def check_resume(found_meta: Mapping[str, Any], wanted_meta: Mapping[str, Any], path: str,
                 accepted: Collection[str]) -> None:
  """Raises UserError for changes that make it another run, and logs the others.

  Args:
    found_meta: of the checkpoint: 'model', 'config' (nested), 'images' (training images).
      What an earlier version did not write is taken to be the same.
    wanted_meta: of this run.
    path: the checkpoint, for messages.
    accepted: changes to accept, of 'seed', 'batch_size' and 'images'.

  Raises:
    UserError: another architecture; a seed, batch size or number of images that differs and
      is not accepted; a name in `accepted` that does not exist.
  """
  _check_names(accepted)
  check_architecture(found_meta['model'], wanted_meta['model'], path)
  found, wanted = _fields(found_meta), _fields(wanted_meta)
  refused = [name for name, field in _GUARDED.items() if name not in accepted
             and None not in (found.get(field), wanted.get(field))
             and found[field] != wanted[field]]
  if refused:
    raise UserError(_refusal(refused, accepted, found, wanted, path))
  for field in sorted(found.keys() | wanted.keys()):
    before, now = found.get(field), wanted.get(field)
    if before != now and field not in _IGNORED:
      logging.info('Changed since the checkpoint: %s from %s to %s.', field, before, now)


def _fields(meta: Mapping[str, Any]) -> dict[str, Any]:
  """The config's fields by dotted name, and 'images', as they are after a way through JSON."""
  fields = _flat(json.loads(json.dumps(meta.get('config', {}))), '')
  return {**fields, 'images': meta.get('images')}


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  fields: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      fields |= _flat(value, f'{prefix}{name}.')
    else:
      fields[prefix + name] = value
  return fields


def _refusal(refused: list[str], accepted: Collection[str], found: Mapping[str, Any],
             wanted: Mapping[str, Any], path: str) -> str:
  fields = [_GUARDED[name] for name in refused]
  differences = ', '.join(f'{_title(field)} {found[field]} there and {wanted[field]} here'
                          for field in fields)
  back = ['give the same images' if field == 'images' else f'set --config.{field}={found[field]}'
          for field in fields]
  names = [name for name in _GUARDED if name in refused or name in accepted]
  return (f'the checkpoint {path} belongs to a run that differs: {differences}; '
          f'{" and ".join(back)} to go on as before, or --config.accept_changes='
          f'{",".join(names)} to go on with what is here now')


def _title(field: str) -> str:
  return 'the number of training images is' if field == 'images' else f'{field} is'
