"""Lists of pictures in text files."""

import pytest

from input_pipeline.preparing import name_lists
from mat_jax.errors import UserError


def test_a_list_has_a_name_a_line(tmp_path):
  path = tmp_path / 'names.txt'
  path.write_bytes(b'# the test set\n\nmage+female\r\n  humans/a knight.png \n\xff\n')
  assert name_lists.read(str(path)) == ('mage+female', 'humans/a knight.png', '\udcff')


def test_no_list(tmp_path):
  (tmp_path / 'empty').write_text('# nothing\n')
  for name, message in (('missing', 'No such file'), ('empty', 'names nothing'), ('', 'directory')):
    with pytest.raises(UserError, match=message):
      name_lists.read(str(tmp_path / name))


@pytest.mark.parametrize('pattern', [
    'mage', 'mage.png', 'humans/mage', 'core/humans/mage.png', 'humans/*', 'ma?e', '[!a]age.png'])
def test_what_names_a_picture(pattern):
  assert name_lists.matches('core/humans/mage.png', ('other', pattern))


@pytest.mark.parametrize('pattern', [
    'age', 'mage+female', 'mage.jpg', 'core', 'core/*', 'core/mage', 'Mage', '.', '/'])
def test_what_does_not(pattern):
  assert not name_lists.matches('core/humans/mage.png', (pattern,))


def test_a_name_with_special_characters_names_itself():
  assert name_lists.matches('a[1].png', ('a[1].png',))
  assert name_lists.matches('a.b.png', ('a.b',))


def test_a_name_that_matches_nothing_is_an_error():
  name_lists.check(('a', 'b/*'), ['x/a.png', 'b/c.png'])
  with pytest.raises(UserError, match="'magee'.*none of the 2 images"):
    name_lists.check(('a', 'magee'), ['x/a.png', 'mage.png'])
