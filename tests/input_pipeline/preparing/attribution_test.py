"""Artists and licences."""

import pathlib

import pytest

from input_pipeline import image_dataset
from input_pipeline.preparing import attribution
from mat_jax.errors import UserError


def test_pictures_are_put_together_by_what_a_table_says(tmp_path):
  path = tmp_path / 'credits.csv'
  path.write_text('file,width,license,artist\nhumans/*,3,CC-BY-SA-4.0,Anna\nelf,4,CC0,\n,5,x,y\n'
                  'short\n')
  rows = attribution.read(str(path))
  assert attribution.collect(['b.png', 'elf.png', 'humans/elf.png', 'humans/x.png'], rows) == [
      {'artist': '', 'license': 'CC0', 'names': ['elf.png']},
      {'artist': 'Anna', 'license': 'CC-BY-SA-4.0', 'names': ['humans/elf.png', 'humans/x.png']},
      {'names': ['b.png']}]
  assert attribution.collect(['a'], ()) == []


def test_the_table_of_the_samples():
  table = pathlib.Path(image_dataset.__file__).parent / 'samples/portraits.csv'
  names = [f'{stem}.jpg' for stem in image_dataset.open_dataset('samples').stems()]
  entries = attribution.collect(names, attribution.read(str(table)))
  assert sum(len(entry['names']) for entry in entries) == 33
  assert all(entry['license'] for entry in entries)


@pytest.mark.parametrize('text', ['', 'name,license\na,b\n', 'file,width\na,3\n'])
def test_other_tables(tmp_path, text):
  (tmp_path / 'x.csv').write_text(text)
  with pytest.raises(UserError, match="no columns 'file' and one of artist, license, source"):
    attribution.read(str(tmp_path / 'x.csv'))


def test_no_table(tmp_path):
  with pytest.raises(UserError, match='cannot be read'):
    attribution.read(str(tmp_path / 'missing'))
