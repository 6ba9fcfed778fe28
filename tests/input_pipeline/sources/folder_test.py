"""ArtGAN's tables of genres, and image files in folders."""

from PIL import Image
import pytest

from input_pipeline import image_dataset
from mat_jax.errors import UserError
from mat_jax.runtime import folders

ROWS = {
    'Baroque/rembrandt_self-portrait-1660.jpg': 6,
    'Baroque/rubens_hunt-1616.jpg': 4,
    'Realism/repin_tolstoy, in-his-study.jpg': 6,
    'Realism/répin_musorgsky-1881.jpg': 6,
    'Cubism/gris_guitar-1913.jpg': 9,
}


def artgan(root, rows=ROWS, subfolder='', tables=None):
  """Writes a small WikiArt; a table per two rows unless they are given."""
  for i, name in enumerate(rows):
    path = root / subfolder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (20, 24), (i, 0, 0)).save(path, 'PNG')
  lines = [f'{name},{number}\n' for name, number in rows.items()]
  tables = tables or {'genre_train.csv': ''.join(lines[:2]), 'genre_val.csv': ''.join(lines[2:])}
  for name, text in tables.items():
    (root / name).write_text(text, encoding='utf-8')
  return str(root)


@pytest.mark.parametrize('genre', ['portrait', 'Portrait', '6', 6])
@pytest.mark.parametrize('subfolder', ['', 'wikiart'])
def test_the_images_of_a_genre(tmp_path, genre, subfolder):
  collection = image_dataset.open_dataset(artgan(tmp_path, subfolder=subfolder), genre)
  prefix = f'{subfolder}/' if subfolder else ''
  assert collection.stems() == [prefix + name for name in (
      'Baroque/rembrandt_self-portrait-1660', 'Realism/repin_tolstoy, in-his-study',
      'Realism/répin_musorgsky-1881')]
  assert collection.load(1, 16)[0, 0, 0] == 2


def test_all_genres_and_other_names(tmp_path):
  root = artgan(tmp_path)
  assert len(image_dataset.open_dataset(root)) == 5
  assert len(image_dataset.open_dataset(root, 'still life')) == 1
  (tmp_path / 'genre_class.txt').write_text('4 hunt\n6 likeness\n')
  assert len(image_dataset.open_dataset(root, 'likeness')) == 3
  with pytest.raises(UserError, match="no genre 'portrait'; choose one of hunt .4., likeness .6."):
    image_dataset.open_dataset(root, 'portrait')


def test_a_table_alone_and_one_with_a_header(tmp_path):
  root = artgan(tmp_path, tables={
      'genre_val.csv': 'path,class\n"Baroque/rubens_hunt-1616.jpg",4\n\n'})
  assert image_dataset.open_dataset(root).stems() == ['Baroque/rubens_hunt-1616']


@pytest.mark.parametrize(
    ('table', 'genre', 'message'),
    [
        ('Baroque/rubens_hunt-1616.jpg,4\n', 'portrait',
         "has no image of the genre 'portrait', but 1 of landscape"),
        ('', 'portrait', 'but no rows at all'),
        ('Baroque/rubens_hunt-1616.jpg,4\n', 'selfie', "no genre 'selfie'.*portrait .6."),
        ('a.jpg,4\nb.jpg,four\n', '', r"row 2 of .*genre_train.csv.*not `path,class`"),
        ('../../etc/secret.jpg,6\n', 'portrait', "names '../../etc/secret.jpg'.*outside"),
        ('/etc/secret.jpg,6\n', 'portrait', "names '/etc/secret.jpg'.*outside"),
        ('missing.jpg,6\nBaroque/rubens_hunt-1616.jpg,6\n', 'portrait',
         "1 of 2 images.*not there, 'missing.jpg'.*unpack"),
    ])
def test_wrong_tables(tmp_path, table, genre, message):
  root = artgan(tmp_path, tables={'genre_train.csv': table})
  with pytest.raises(UserError, match=message):
    image_dataset.open_dataset(root, genre)


def test_few_missing_images_are_left_out(tmp_path, caplog):
  rows = {f'Style/{i:03}.jpg': 6 for i in range(150)}
  root = artgan(tmp_path, rows)
  (tmp_path / 'Style' / '007.jpg').unlink()
  assert len(image_dataset.open_dataset(root, 'portrait')) == 149
  assert "Style/007.jpg" in caplog.text


def test_undecodable_names_find_their_files(tmp_path):
  name = b'Style/caf\xe9.jpg'.decode(errors='surrogateescape')
  root = artgan(tmp_path, {'Style/a.jpg': 6})
  (tmp_path / 'Style' / 'a.jpg').rename(tmp_path / name)
  (tmp_path / 'genre_train.csv').write_bytes(b'Style/caf\xe9.jpg,6\n')
  collection = image_dataset.open_dataset(root, 'portrait')
  assert collection.load(0, 16).shape == (16, 16, 3)


def test_find_images(tmp_path):
  (tmp_path / 'b').mkdir()
  for name in ('b/2.png', 'a.jpg', 'notes.txt', '.hidden.png'):
    (tmp_path / name).write_bytes(b'')
  assert folders.find_images(str(tmp_path)) == [f'{tmp_path}/a.jpg', f'{tmp_path}/b/2.png']
  for name, message in (('missing', 'does not exist'), ('a.jpg', 'is a file'), ('c', 'no images')):
    (tmp_path / 'c').mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
      folders.find_images(str(tmp_path / name))


def test_a_table_of_many_rows(tmp_path):
  rows = {f'{"abc"[i % 3]}/{i:04}.jpg': i % 10 for i in range(300)}
  collection = image_dataset.open_dataset(artgan(tmp_path, rows), 'portrait')
  assert len(collection) == 30
  levels = [collection.load(i, 8)[0, 0, 0] for i in range(3)]
  expected = sorted(name for name, number in rows.items() if number == 6)
  assert levels == [list(rows).index(name) % 256 for name in expected[:3]]
  assert [len(collection.split(name)) for name in image_dataset.SPLITS] == [25, 3, 2]
