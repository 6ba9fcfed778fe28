"""Completes pictures in several dtypes and compares the results.

  python -m benchmarks.measured.completions
  python -m benchmarks.measured.completions --model=runs/wikiart --dtypes=float32,float16 --count=33

Each of the sample portraits, cropped to the model's resolution, gets a hole of the large preset, and
is completed with the same seed in every dtype. Differences are in levels of 255, of the first dtype:
their mean over the hole, the mean of the worst picture, and the largest of a pixel. The last line is
JSON. `--output` is a folder for the pictures, one under the other for each dtype.
"""

import json
import os
import time
from typing import Any

from absl import app, flags, logging
import jax
import ml_collections
import numpy as np
import PIL.Image
import PIL.ImageOps

from benchmarks.reference import published
from configs import base
from input_pipeline import masks
from mat_jax.checkpoints.reader import EmaCheckpoint, restore_ema
from mat_jax.errors import exit_on_user_error
from mat_jax.inference.inpainter import Inpainter

# Of this command alone: others, which a test imports too, have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == '__main__' else flags.FlagValues()
_MODEL = flags.DEFINE_string('model', 'small',
    "A checkpoint as of `inpaint.checkpoint`, or 'generated' for the weights of the parity tests.",
    flag_values=_FLAGS)
_DTYPES = flags.DEFINE_list('dtypes', ['float32', 'bfloat16', 'float16'],
    'Of activations; the first is what the others are compared with.', flag_values=_FLAGS)
_COUNT = flags.DEFINE_integer('count', 8, 'Portraits.', lower_bound=1, flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string('output', '', "Folder for the pictures; '' for none.",
    flag_values=_FLAGS)

SAMPLES = os.path.join(os.path.dirname(masks.__file__), 'samples')


def checkpoint_of(name: str) -> EmaCheckpoint:
  """The checkpoint of `--model`."""
  if name != 'generated':
    return restore_ema(name)
  model = base.get_config().model
  model.mapping_layers = 8
  return EmaCheckpoint(0, model, 0, published.generator_variables(), name)


def examples(count: int, side: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """Sample portraits, uint8 [side, side, 3], each with a mask, bool [side, side], True = keep."""
  names = sorted(name for name in os.listdir(SAMPLES) if name.endswith('.jpg'))[:count]
  found = []
  for seed, name in enumerate(names):
    with PIL.Image.open(os.path.join(SAMPLES, name)) as image:
      square = PIL.ImageOps.fit(image.convert('RGB'), (side, side), centering=(0.5, 0.0))
    found.append((np.asarray(square), masks.random_mask(seed, side, 'large')[..., 0] > 0.5))
  return found


def complete(checkpoint: EmaCheckpoint, dtype: str,
             pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
  """Completions, uint8 [N, side, side, 3]."""
  model = ml_collections.ConfigDict(checkpoint.model.to_dict())
  model.dtype = dtype
  inpainter = Inpainter(checkpoint, model)
  return np.stack([inpainter.inpaint(image, mask, seed=seed)[0]
                   for seed, (image, mask) in enumerate(pairs)])


def differences(found: np.ndarray, exact: np.ndarray, holes: np.ndarray) -> dict[str, float]:
  """Differences of pictures, uint8 [N, H, W, 3], over their holes, bool [N, H, W], in levels."""
  levels = np.abs(found.astype(int) - exact.astype(int)).mean(-1)
  means = [float(x[hole].mean()) for x, hole in zip(levels, holes, strict=True)]
  return {'mean': float(np.mean(means)), 'worst_picture': max(means),
          'largest': int(np.abs(found.astype(int) - exact.astype(int)).max())}


@exit_on_user_error
def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  checkpoint = checkpoint_of(_MODEL.value)
  pairs = examples(_COUNT.value, checkpoint.model.resolution)
  holes = np.stack([~mask for _, mask in pairs])
  results: dict[str, np.ndarray] = {}
  report: dict[str, Any] = {}
  for dtype in _DTYPES.value:
    begun = time.perf_counter()
    results[dtype] = complete(checkpoint, dtype, pairs)
    exact = results[_DTYPES.value[0]]
    report[dtype] = differences(results[dtype], exact, holes) | {
        'seconds': round(time.perf_counter() - begun, 1)}
    print(dtype, report[dtype], flush=True)
  if _OUTPUT.value:
    os.makedirs(_OUTPUT.value, exist_ok=True)
    for i in range(len(pairs)):
      column = np.concatenate([results[dtype][i] for dtype in _DTYPES.value])
      PIL.Image.fromarray(column).save(os.path.join(_OUTPUT.value, f'{i}.png'))
  print(json.dumps({'jax': jax.__version__, 'device': jax.devices()[0].device_kind,
                    'model': _MODEL.value, 'resolution': checkpoint.model.resolution,
                    'pictures': len(pairs), 'dtypes': report}))


if __name__ == '__main__':
  app.run(main)
