"""Training from scratch on CelebA-HQ at 512 px (MAT, section 4.1)."""

import ml_collections

from configs import celebahq256


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of CelebA-HQ at 512 px: those of 256 px for larger faces."""
  config = celebahq256.get_config()
  # The folder has to hold faces of 512 px or larger.
  config.model.resolution = 512
  return config
