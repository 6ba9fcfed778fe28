"""The side of the published PyTorch code in `benchmarks.pytorch.original`.

Needs torch, timm and scipy. Runs in another interpreter, takes its task as JSON on the command
line, and for every line on its standard input does it once and prints the seconds. Nothing of
mat_jax is imported.
"""

import importlib
import json
import resource
import sys
import time
import types
from typing import Any

import torch


def import_networks(folder: str) -> types.ModuleType:
  """The module `networks.mat` of a clone of the repository.

  It takes three helpers from an old path of timm; where timm cannot be imported, because the
  torchvision that it needs is not there, they are made here. So is a function of distutils, which
  Python has not had since 3.12. None of them is called.
  """
  sys.path.insert(0, folder)
  try:
    importlib.import_module('distutils.util')
  except ImportError:
    util: Any = types.ModuleType('distutils.util')
    util.strtobool = bool
    sys.modules.update({'distutils': types.ModuleType('distutils'), 'distutils.util': util})
  try:
    importlib.import_module('timm.models.layers')
  except Exception:  # torchvision of another build than torch fails with RuntimeError
    layers: Any = types.ModuleType('timm.models.layers')
    layers.DropPath = torch.nn.Identity
    layers.to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    sys.modules.update({'timm': types.ModuleType('timm'),
                        'timm.models': types.ModuleType('timm.models'),
                        'timm.models.layers': layers})
  return importlib.import_module('networks.mat')


class Vgg19(torch.nn.Module):
  """VGG19 up to conv5_4 with random weights; the features of conv4_4 and conv5_4."""

  def __init__(self):
    super().__init__()
    layers, width = [], 3
    for block, (convs, features) in enumerate(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))):
      layers += [torch.nn.MaxPool2d(2)] if block else []
      for _ in range(convs):
        layers += [torch.nn.Conv2d(width, features, 3, padding=1), torch.nn.ReLU(inplace=False)]
        width = features
    self.layers = torch.nn.ModuleList(layers[:-1]).requires_grad_(False)
    self.wanted = [i for i, layer in enumerate(self.layers)
                   if isinstance(layer, torch.nn.Conv2d)]
    self.wanted = (self.wanted[11], self.wanted[15])

  def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
    """[N, 3, H, W] in [-1, 1] -> both features."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1)
                 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, found = ((x + 1) / 2 - mean) / std, []
    for i, layer in enumerate(self.layers):
      x = layer(x)
      if i in self.wanted:
        found.append(x)
    return found


def make_inference(mat: types.ModuleType, size: int, resolution: int):
  """A function that completes a batch."""
  generator = mat.Generator(512, 0, 512, resolution, 3).eval()
  image, mask = make_batch(size, resolution)

  def run() -> None:
    with torch.inference_mode():
      generator(image, mask, torch.randn(size, 512), None, noise_mode='const')

  return run


def make_batch(size: int, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
  """Random images and masks."""
  image = torch.rand(size, 3, resolution, resolution) * 2 - 1
  return image, (torch.rand(size, 1, resolution, resolution) > 0.5).float()


def make_training(mat: types.ModuleType, size: int, resolution: int):
  """A function that does Gmain and Dmain with their steps of Adam, as published."""
  generator = mat.Generator(512, 0, 512, resolution, 3).train()
  discriminator = mat.Discriminator(0, resolution, 3).train()
  vgg = Vgg19()
  optimizers = [torch.optim.Adam(network.parameters(), 1e-3, (0.0, 0.99), 1e-8)
                for network in (generator, discriminator)]
  image, mask = make_batch(size, resolution)
  softplus = torch.nn.functional.softplus

  def generate() -> tuple[torch.Tensor, torch.Tensor]:
    ws = generator.mapping(torch.randn(size, 512), None, truncation_psi=0.5)
    other = generator.mapping(torch.randn(size, 512), None, truncation_psi=0.5,
                              skip_w_avg_update=True)
    ws = torch.cat([ws[:, :7], other[:, 7:]], 1)
    return generator.synthesis(image, mask, ws, return_stg1=True)

  def train_generator() -> None:
    generator.requires_grad_(True)
    discriminator.requires_grad_(False)
    result, stage1 = generate()
    logits, logits_stage1 = discriminator(result, mask, stage1, None)
    perceptual = sum(weight * (a - b).abs().mean() for weight, a, b in zip(
        (1 / 4, 1 / 2), vgg(result), vgg(image), strict=True))
    loss = softplus(-logits) + softplus(-logits_stage1)
    (loss.mean() + 0.1 * perceptual).backward()
    optimizers[0].step()
    optimizers[0].zero_grad(set_to_none=True)

  def train_discriminator() -> None:
    generator.requires_grad_(False)
    discriminator.requires_grad_(True)
    with torch.no_grad():
      result, stage1 = generate()
    logits = discriminator(result, mask, stage1, None)
    sum(softplus(x) for x in logits).mean().backward()
    logits = discriminator(image, mask, image, None)
    sum(softplus(-x) for x in logits).mean().backward()
    optimizers[1].step()
    optimizers[1].zero_grad(set_to_none=True)

  def run() -> None:
    train_generator()
    train_discriminator()

  return run


def main() -> None:
  task = json.loads(sys.argv[1])
  torch.set_num_threads(task['threads'])
  make = make_training if task['task'] == 'training' else make_inference
  run = make(import_networks(task['folder']), task['batch_size'], task['resolution'])
  print('ready', flush=True)
  for _ in sys.stdin:
    begun = time.perf_counter()
    run()
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({'seconds': seconds, 'peak_mib': peak / 1024}), flush=True)


if __name__ == '__main__':
  main()
