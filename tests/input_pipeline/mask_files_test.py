"""Masks from files: matched by name or in turn, and the folders that do not fit."""

import itertools

import numpy as np
from PIL import Image
import pytest

from input_pipeline import image_dataset, mask_files, pipeline
from mat_jax.errors import UserError
from mat_jax.runtime import mask_values

RESOLUTION = 16


def write(folder, name, level):
  """A mask file whose first `level` rows are kept; how a test tells them apart."""
  mask = np.zeros((RESOLUTION, RESOLUTION), np.uint8)
  mask[:level] = 255
  folder.mkdir(parents=True, exist_ok=True)
  Image.fromarray(mask).save(folder / name)


def rows(masks):
  """The number of kept rows of each mask [n, R, R, 1]."""
  return masks[:, :, 0, 0].sum(1).astype(int).tolist()


def ask(source, images, places=None, positions=None):
  count = len(images)
  requests = mask_files.Requests(
      np.zeros(count, np.uint64), np.array(images), np.array(places or [0] * count),
      np.array(positions or range(count)))
  out = np.full((count, RESOLUTION, RESOLUTION, 1), 9, np.float32)
  source(requests, out)
  assert set(np.unique(out)) <= {0, 1}
  return rows(out)


def open_masks(folder, stems=('a', 'b'), **options):
  return mask_files.MaskFiles(str(folder), RESOLUTION, lambda: stems, **options)


def test_masks_by_stem(tmp_path):
  write(tmp_path, 'b.png', 2)
  write(tmp_path / 'more', 'a.bmp', 1)
  for order in ('auto', 'stem'):
    source = open_masks(tmp_path, ('faces/a', 'b'), order=order)
    assert ask(source, [0, 1, 0], positions=[7, 7, 7]) == [1, 2, 1]


def test_several_masks_of_an_image(tmp_path):
  for i in (10, 2, 0):
    write(tmp_path, f'a_{i}.png', i)
  write(tmp_path, 'b_1.png', 3)
  source = open_masks(tmp_path)
  assert ask(source, [0] * 4, places=[0, 1, 2, 3]) == [0, 2, 10, 0]
  assert ask(source, [1, 1], places=[0, 1]) == [3, 3]
  source.check_places(1)
  with pytest.raises(UserError, match='1 masks for an image where 2 are asked'):
    source.check_places(2)


@pytest.mark.parametrize('order', ['auto', 'cycle'])
def test_masks_in_turn(tmp_path, order):
  for i in range(5):
    write(tmp_path, f'{i}.png', i)
  source = open_masks(tmp_path, order=order, seed=1)
  first, second = ask(source, [0] * 5), ask(source, [1] * 5, positions=range(5, 10))
  assert sorted(first) == list(range(5)) and first == second
  others = {tuple(ask(open_masks(tmp_path, order=order, seed=seed), [0] * 5)) for seed in range(9)}
  assert len(others) > 5


def test_masks_with_grey_pixels_are_noticed_once(tmp_path, caplog):
  write(tmp_path, 'a.png', 5)
  for name in ('b.png', 'c.png'):
    write(tmp_path, name, 8)
    mask = np.array(Image.open(tmp_path / name))
    mask[7, :3], mask[9, 0] = 254, 1
    Image.fromarray(mask).save(tmp_path / name)
  source = open_masks(tmp_path, ('a', 'b', 'c'))
  assert ask(source, [0]) == [5] and not caplog.messages
  with caplog.at_level('WARNING'):
    assert ask(source, [1, 2, 1]) == [7, 7, 7]
  (message,) = caplog.messages
  assert 'b.png: 4 of 256 pixels are neither black nor white' in message


def test_a_jpeg_mask_keeps_no_more_than_was_white(tmp_path):
  mask = np.zeros((64, 64), np.uint8)
  mask[:20, :20] = 255
  Image.fromarray(mask).save(tmp_path / 'a.jpg', quality=80)
  keep, grey = mask_values.load_mask(str(tmp_path / 'a.jpg'))
  # Blocks of eight pixels that the edge runs through are no longer pure.
  assert keep[:16, :16].all() and not keep[mask == 0].any() and 0 < grey < 600


_WHITE, _GREY, _BLACK = (255, 255, 255), (255, 255, 254), (0, 0, 0)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16', '0 and 1'])
def test_every_kind_of_file_means_the_same(tmp_path, mode):
  mask = np.zeros((16, 16), np.uint8)
  mask[:4], mask[4:6] = 255, 254
  grey = 32
  if mode in ('1', '0 and 1'):
    mask[4:6], grey = 0, 0
  if mode == '1':
    image = Image.fromarray(mask > 0)
  elif mode == '0 and 1':
    image = Image.fromarray(mask // 255)
  elif mode == 'I;16':
    image = Image.fromarray(np.select([mask == 255, mask == 254], [65535, 65500]).astype(np.uint16))
  elif mode == 'P':
    image = Image.fromarray(255 - mask)
    image.putpalette([*_WHITE, *_GREY, *_BLACK * 254])
  else:
    image = Image.fromarray(mask).convert(mode)
  assert image.mode == {'0 and 1': 'L'}.get(mode, mode)
  image.save(tmp_path / 'a.png')
  found = mask_values.load_mask(str(tmp_path / 'a.png'))
  np.testing.assert_array_equal(found.keep[..., 0], mask == 255)
  assert found.grey == grey


def test_what_is_transparent_is_kept(tmp_path):
  layer = np.zeros((16, 16, 4), np.uint8)  # a black brush on a transparent layer
  layer[:4, :, 3], layer[4:6, :, 3] = 255, 100
  Image.fromarray(layer).save(tmp_path / 'a.png')
  keep, grey = mask_values.load_mask(str(tmp_path / 'a.png'))
  assert not keep[:6].any() and keep[6:].all() and grey == 32


@pytest.mark.parametrize(
    ('names', 'options', 'message'),
    [
        ([], {}, 'no images'),
        (['a.png'], {}, r"no mask for 1 of 2 images, 'b' for one.*mask_order='cycle'"),
        (['c.png'], {'order': 'stem'}, "no mask for 2 of 2 images, 'a' for one"),
        (['a.png'], {'order': 'random'}, "unknown order of masks 'random'"),
    ])
def test_wrong_folders(tmp_path, names, options, message):
  for name in names:
    write(tmp_path, name, 1)
  with pytest.raises(UserError, match=message):
    open_masks(tmp_path, **options)


def test_a_missing_folder(tmp_path):
  with pytest.raises(UserError, match='missing.*does not exist'):
    open_masks(tmp_path / 'missing')


def test_masks_of_another_size(tmp_path):
  write(tmp_path, 'a.png', 1)
  Image.new('L', (16, 32)).save(tmp_path / 'b.png')
  with pytest.raises(UserError, match='b.png.*16 x 32 pixels; give masks of 16 x 16'):
    open_masks(tmp_path)
  (tmp_path / 'b.png').write_bytes(b'no image')
  with pytest.raises(UserError, match='b.png.*cannot be read'):
    open_masks(tmp_path)


@pytest.fixture
def images(tmp_path):
  for i in range(6):
    (tmp_path / 'images').mkdir(exist_ok=True)
    Image.new('L', (20, 20), 10 * i).save(tmp_path / 'images' / f'{i}.png')
  return image_dataset.open_dataset(str(tmp_path / 'images'))


def test_evaluation_with_matched_masks(tmp_path, images):
  for i, j in itertools.product(range(6), range(2)):
    write(tmp_path / 'masks', f'{i}_{j}.png', 2 * i + j)
  source = open_masks(tmp_path / 'masks', images.stems())
  batches = list(pipeline.evaluation_batches(
      images, source, resolution=RESOLUTION, batch_size=5, masks_per_image=2))
  assert sum((rows(batch['mask']) for batch in batches), []) == [*range(12), 16, 16, 16]


def test_evaluation_in_turn_does_not_depend_on_the_batch(tmp_path, images):
  for i in range(5):
    write(tmp_path / 'masks', f'mask{i}.png', i)
  source = open_masks(tmp_path / 'masks', images.stems())
  found = []
  for batch_size, count in ((3, 2), (12, 2), (6, 1)):
    batches = list(pipeline.evaluation_batches(
        images, source, resolution=RESOLUTION, batch_size=batch_size, masks_per_image=count))
    found.append(sum((rows(batch['mask']) for batch in batches), []))
  assert found[0] == found[1] and found[0][::2] == found[2]
  assert all(first != second for first, second in zip(found[0][::2], found[0][1::2], strict=True))


@pytest.mark.parametrize('process_count', [1, 2])
def test_training_takes_every_mask_equally_often(tmp_path, images, process_count):
  for i in range(4):
    write(tmp_path / 'masks', f'mask{i}.png', i)
  source = open_masks(tmp_path / 'masks', images.stems())
  seen = []
  for process in range(process_count):
    stream = pipeline.training_batches(
        images, source, resolution=RESOLUTION, batch_size=4, seed=0, process_index=process,
        process_count=process_count)
    seen += sum((rows(batch['mask']) for batch in itertools.islice(stream, 6)), [])
  assert sorted(seen) == sorted(list(range(4)) * 6)


def test_training_takes_the_masks_of_an_image_epoch_by_epoch(tmp_path, images):
  for i, j in itertools.product(range(6), range(3)):
    write(tmp_path / 'masks', f'{i}_{j}.png', 2 * i + j)
  source = open_masks(tmp_path / 'masks', images.stems())
  stream = pipeline.training_batches(images, source, resolution=RESOLUTION, batch_size=6, seed=0)
  for epoch in range(4):
    batch = next(stream)
    numbers = np.rint((batch['image'][:, 0, 0, 0] + 1) * 12.75).astype(int)
    assert rows(batch['mask']) == (2 * numbers + epoch % 3).tolist()


def test_an_unreadable_mask_ends_the_stream(tmp_path, images):
  write(tmp_path / 'masks', 'mask.png', 3)
  source = open_masks(tmp_path / 'masks', images.stems())
  data = (tmp_path / 'masks' / 'mask.png').read_bytes()
  (tmp_path / 'masks' / 'mask.png').write_bytes(data[:50])
  stream = pipeline.training_batches(images, source, resolution=RESOLUTION, batch_size=6, seed=0)
  with pytest.raises(UserError, match='mask.png.*cannot be read'):
    next(stream)
