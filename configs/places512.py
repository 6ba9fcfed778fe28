"""Training from scratch on Places at 512 px (MAT, section 4.1)."""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of Places at 512 px."""
  config = base.get_config()
  # A folder of Places365 images, 512 px or larger.
  config.data_dir = 'data/places'
  config.model.resolution = 512
  # Scenes have no top that matters: as in MAT's training, squares from anywhere.
  config.data.crop = 'random_crop'
  config.train.batch_size = 32
  config.train.total_kimg = 50000.0
  config.train.snapshot_ticks = 50
  return config
