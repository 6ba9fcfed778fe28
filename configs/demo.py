"""Fine-tunes the shipped small model on the sample portraits: two minutes of two CPU cores.

The model was trained on the drawn figures of a game, and on these paintings among them. It is
fine-tuned without a discriminator, with which the step takes minutes to compile on a CPU.
"""

import ml_collections

from configs import portraits_small


def get_config() -> ml_collections.ConfigDict:
  """Returns the settings of `make demo`."""
  config = portraits_small.get_config()
  config.data_dir = 'samples'
  config.init_from = 'small'
  config.train.batch_size = 4
  config.train.total_kimg = 0.128
  config.train.kimg_per_tick = 0.016
  config.train.snapshot_ticks = 8
  config.train.adversarial_weight = 0.0
  config.train.adversarial_stage1_weight = 0.0
  config.train.projected_weight = 0.0
  # LPIPS at half the size has a quarter of the operations.
  config.train.feature_downsample = 2
  config.augment.pipeline = ''
  config.optimizer.learning_rate = 1e-3
  # The half-life of the EMA has to suit a run of a hundred images.
  config.train.ema_kimg = 0.02
  config.train.ema_rampup = None
  # Held out: both parts that were not trained on, five portraits.
  config.eval.split = 'validation+test'
  config.eval.mask_preset = 'large'
  config.eval.lpips = 'alex'
  # Five portraits are too few for distances between sets.
  config.eval.features = ''
  config.eval.classical = 'telea+navier_stokes'
  return config
