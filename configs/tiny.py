"""A tiny MAT from random weights on the 33 sample portraits: minutes on a laptop.

It shows that training runs, and tests train it; `configs/demo.py` fine-tunes a model that has
learned.
"""

import ml_collections

from configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of the tiny model."""
  config = base.get_config()
  config.data_dir = 'samples'
  # For feature maps this small these are as fast on a CPU, and compile in half the time.
  config.implementations = 'compact'
  config.model.resolution = 64
  config.model.mapping_layers = 2
  config.model.width = 0.0625
  config.data.crop = 'top'
  config.train.batch_size = 8
  config.train.total_kimg = 1.92
  config.train.kimg_per_tick = 0.24
  config.train.snapshot_ticks = 4
  config.train.r1_gamma = 0.1
  # In a run this short L1 teaches the colours long before the discriminator helps.
  config.train.l1_weight = 100.0
  config.train.pcp_ratio = 0.0
  # Eight times the reference's rate: there are only 240 steps.
  config.optimizer.learning_rate = 8e-3
  # The half-life of the EMA has to suit a run of two thousand images.
  config.train.ema_kimg = 0.15
  # Held out: both parts that were not trained on, five portraits.
  config.eval.split = 'validation+test'
  config.eval.masks_per_image = 8
  config.eval.mask_preset = 'large'
  # Without a download.
  config.eval.features = 'vgg16'
  # As in training: the few steps have not seen a wider range of styles.
  config.eval.truncation_psi = 0.5
  config.inpaint.truncation_psi = 0.5
  return config
