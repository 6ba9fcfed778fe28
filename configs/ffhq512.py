"""Training from scratch on FFHQ at 512 px."""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of FFHQ at 512 px."""
  config = base.get_config()
  # A folder of the aligned faces, 512 px or larger.
  config.data_dir = 'data/ffhq'
  config.model.resolution = 512
  # The faces are aligned, so the whole picture counts.
  config.data.crop = 'center'
  config.train.batch_size = 32
  config.train.total_kimg = 25000.0
  config.train.snapshot_ticks = 50
  return config
