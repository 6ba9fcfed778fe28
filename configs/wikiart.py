"""Fine-tuning on painted portraits from WikiArt at 256 px.

It needs a converted checkpoint to start from: --config.init_from=models/celebahq256, which
README.md says how to make. From scratch MAT takes thousands of kimg, not 32.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of the WikiArt portraits."""
  config = base.get_config()
  # Where the portraits are: a folder, an archive, shards or a prepared data set, which it
  # finds out; see README.md.
  config.data_dir = 'data/wikiart'
  config.is_fine_tuning = True
  # ArtGAN's tables and huggan/wikiart have ten genres; elsewhere this has no effect.
  config.data.genre = 'portrait'
  # StyleGAN2-ADA's heuristic for 16 images, the least that its automatic setting takes.
  config.train.r1_gamma = 0.8192
  # Six thousand portraits are few for a discriminator.
  config.augment.pipeline = 'bgc'
  config.augment.kimg = 100.0
  # About five passes over 6,000 portraits.
  config.train.total_kimg = 32.0
  # The 352 test images of HistoGAN's 7,009 make 2,112 pairs with each set of masks. P-IDS and
  # U-IDS can then be measured on VGG16's 512 features; Inception's 2,048 take a thousand different
  # images, as --config.eval.split=validation+test has.
  config.eval.masks_per_image = 6
  return config
