"""A small MAT on a few hundred painted portraits: ten minutes of an H100, days of a laptop.

It makes the model that comes with the project (mat_jax/models/README.md says how exactly, and
docs/results.md what it does). Smaller ones train on a CPU, one resolution after the other
(progressive growing):

  python main.py --config=configs/portraits_small.py --workdir=runs/small32 \\
      --config.model.resolution=32 --config.train.projected_weight=0
  python main.py --config=configs/portraits_small.py --workdir=runs/small64 \\
      --config.model.resolution=64 --config.init_from=runs/small32 --config.grow
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of the small portraits."""
  config = base.get_config()
  config.data_dir = 'data/portraits_small'
  config.model.resolution = 128
  config.model.mapping_layers = 2
  config.model.width = 0.25
  config.train.batch_size = 32
  config.train.total_kimg = 200.0
  config.train.kimg_per_tick = 1.0
  config.train.snapshot_ticks = 4
  config.train.r1_gamma = 0.5
  # L1 and LPIPS say what the paper's perceptual loss leaves to thousands of kimg.
  config.train.l1_weight = 10.0
  config.train.lpips_weight = 10.0
  config.train.pcp_ratio = 0.0
  # A discriminator on the features of VGG16, beside the one that learns its own.
  config.train.projected_weight = 0.25
  config.train.truncation_psi = 1.0
  config.optimizer.learning_rate = 2e-3
  # The average of a short run: a shorter memory, shorter still at the beginning.
  config.train.ema_kimg = 10.0
  config.train.ema_rampup = 0.05
  # A thousand crops are few for a discriminator.
  config.augment.pipeline = 'bgc'
  config.augment.kimg = 100.0
  config.eval.masks_per_image = 8
  # Without a download.
  config.eval.features = 'vgg16'
  return config
