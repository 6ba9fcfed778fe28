"""Training from scratch on FFHQ at 512 px."""

import ml_collections

from configs import celebahq512


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of FFHQ at 512 px: those of CelebA-HQ, aligned faces too."""
  config = celebahq512.get_config()
  # A folder of the aligned faces, 512 px or larger.
  config.data_dir = 'data/ffhq'
  return config
