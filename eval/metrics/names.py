"""Titles and formats of the metrics in tables, and whether higher is better."""

from typing import NamedTuple


class Metric(NamedTuple):
  """Title, format and direction of a metric.

  Attributes:
    title: of its column.
    form: format of a value.
    higher_is_better: direction.
  """

  title: str
  form: str
  higher_is_better: bool


# Of a pair of images, in the order of the columns.
PAIR_METRICS = {
    'psnr': Metric('PSNR, dB', '.2f', True),
    'ssim': Metric('SSIM', '.4f', True),
    'l1': Metric('L1', '.4f', False),
    'lpips_alex': Metric('LPIPS alex', '.4f', False),
    'lpips_vgg': Metric('LPIPS vgg', '.4f', False),
    'psnr_hole': Metric('PSNR hole, dB', '.2f', True),
    'ssim_hole': Metric('SSIM hole', '.4f', True),
    'l1_hole': Metric('L1 hole', '.4f', False),
    # Of several completions of a pair.
    'diversity_alex': Metric('Diversity, LPIPS alex', '.4f', True),
    'diversity_vgg': Metric('Diversity, LPIPS vgg', '.4f', True),
    'best_lpips_alex': Metric('Best LPIPS alex', '.4f', False),
    'best_lpips_vgg': Metric('Best LPIPS vgg', '.4f', False),
}

# Of two sets of images, by feature network; kernel distances come first, as the number of
# images biases them least.
SET_METRICS = {
    'kid': Metric('KID', '.5f', False),
    'fid': Metric('FID', '.2f', False),
    'p_ids': Metric('P-IDS', '.4f', True),
    'u_ids': Metric('U-IDS', '.4f', True),
    'precision': Metric('Precision', '.3f', True),
    'recall': Metric('Recall', '.3f', True),
    'kd_vgg16': Metric('KD VGG16', '.4f', False),
    'fd_vgg16': Metric('FD VGG16', '.3f', False),
    'p_ids_vgg16': Metric('P-IDS VGG16', '.4f', True),
    'u_ids_vgg16': Metric('U-IDS VGG16', '.4f', True),
    'precision_vgg16': Metric('Precision VGG16', '.3f', True),
    'recall_vgg16': Metric('Recall VGG16', '.3f', True),
    'kd_dinov2': Metric('KD DINOv2', '.4f', False),
    'fd_dinov2': Metric('FD DINOv2', '.2f', False),
    'p_ids_dinov2': Metric('P-IDS DINOv2', '.4f', True),
    'u_ids_dinov2': Metric('U-IDS DINOv2', '.4f', True),
    'precision_dinov2': Metric('Precision DINOv2', '.3f', True),
    'recall_dinov2': Metric('Recall DINOv2', '.3f', True),
    'cmmd': Metric('CMMD', '.4f', False),
}

METRICS = PAIR_METRICS | SET_METRICS
