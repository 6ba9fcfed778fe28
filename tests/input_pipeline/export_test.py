import os

import numpy as np
from PIL import Image
import pytest

from input_pipeline import export, masks
from input_pipeline.image_dataset import open_dataset
from mat_jax.errors import UserError


def test_images_and_masks_match(tmp_path):
  portraits = open_dataset('samples').split('test')
  assert export.export(portraits, str(tmp_path), 64, 'large', 5) == len(portraits) == 2
  names = sorted(os.listdir(tmp_path / 'images'))
  assert names == sorted(os.listdir(tmp_path / 'masks')) == sorted(os.listdir(tmp_path / 'masked'))
  stem = portraits.stems()[0]
  mask = np.asarray(Image.open(tmp_path / 'masks' / f'{stem}.png'))
  np.testing.assert_array_equal(mask == 255, masks.random_mask(5, 64, 'large')[..., 0] == 1)
  image = np.asarray(Image.open(tmp_path / 'images' / f'{stem}.png'))
  masked = np.asarray(Image.open(tmp_path / 'masked' / f'{stem}.png'))
  np.testing.assert_array_equal(masked[mask == 255], image[mask == 255])


def test_equal_names_are_refused(tmp_path):
  for name in ('a/x.jpg', 'b/x.png'):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
  with pytest.raises(UserError, match='same name'):
    export.export(open_dataset(str(tmp_path)), str(tmp_path / 'out'), 64, 'large', 0)
  assert not (tmp_path / 'out').exists()
