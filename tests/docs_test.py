"""What the documentation names is there, and what there is of networks is named."""

import re

import pytest

from configs import base
from tests.support.paths import ROOT

_TEXTS = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')])
# The rooms of the networks.
_NETWORKS = ('nn', 'ops', 'features')


def test_every_module_of_the_networks_is_described():
  found = {f'mat_jax/{room}/{path.name}' for room in _NETWORKS
           for path in (ROOT / 'mat_jax' / room).glob('*.py') if path.name != '__init__.py'}
  table = [line for line in (ROOT / 'docs' / 'networks.md').read_text(
      encoding='utf-8').splitlines() if line.startswith('| `mat_jax/')]
  named = set(re.findall(r'mat_jax/[\w/]+\.py', '\n'.join(line.split('|')[1] for line in table)))
  assert named - {'mat_jax/inference/completion.py'} == found


@pytest.mark.parametrize('text', _TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(text):
  content = text.read_text(encoding='utf-8')
  for target in re.findall(r'\]\((?!https?:)([^)#]+)', content):
    assert (text.parent / target).exists(), target


def _fields(tree, prefix=''):
  """Dotted names of the leaves of a config."""
  return set().union(*(
      _fields(value, f'{prefix}{name}.') if isinstance(value, dict) else {f'{prefix}{name}'}
      for name, value in tree.items()))


@pytest.mark.parametrize('text', _TEXTS, ids=lambda path: path.name)
def test_commands_name_what_there_is(text):
  content = text.read_text(encoding='utf-8')
  fields = _fields(base.get_config().to_dict())
  assert set(re.findall(r'--config\.([\w.]+)=', content)) <= fields
  for name in re.findall(r'--config=(configs/\S+)', content):
    assert (ROOT / name).exists(), name
  for module in re.findall(r'python -m (\w+(?:\.\w+)+)', content):
    path = ROOT / module.replace('.', '/')
    assert path.with_suffix('.py').exists() or (path / '__main__.py').exists(), module
