"""Times augmentation: the transforms of a batch and their gradient.

  python -m benchmarks.measured.augmentation

The last line is JSON: seconds (median of five; lower is better) that eight examples of three
images and a mask at 256 px take, forward and with the gradient by the images, for the
pipelines 'bgc' and 'c' at probability 0.5, and for 'bgc' while its probability is 0.
"""

from collections.abc import Callable
import json
import statistics
import time

from absl import app, flags
import jax
import jax.numpy as jnp

from mat_jax.training.step import augment

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Examples.')
_RESOLUTION = flags.DEFINE_integer('resolution', 256, 'Side of the images.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Measurements of each function.')


def measure(function: Callable[..., jax.Array], *arguments: object) -> float:
  """Median seconds of a compiled function."""
  compiled = jax.jit(function)
  jax.block_until_ready(compiled(*arguments))
  seconds = []
  for _ in range(_REPEATS.value):
    begun = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - begun)
  return round(statistics.median(seconds), 4)


def main(argv: list[str]) -> None:
  del argv
  n, side = _BATCH_SIZE.value, _RESOLUTION.value
  image_key, mask_key, key = jax.random.split(jax.random.key(0), 3)
  images = tuple(jax.random.uniform(k, (n, side, side, 3), minval=-1)
                 for k in jax.random.split(image_key, 3))
  mask = jax.random.bernoulli(mask_key, 0.5, (n, side, side, 1)).astype(jnp.float32)
  found = {}
  for name, letters, probability in (('bgc', 'bgc', 0.5), ('c', 'c', 0.5), ('idle', 'bgc', 0.0)):
    pipeline = augment.Pipeline.from_letters(letters)

    def forward(images, probability, pipeline=pipeline):
      transforms = augment.sample(key, n, probability, pipeline, side, side)
      return augment.apply(transforms, images, mask, active=probability > 0)

    def gradient(images, probability, forward=forward):
      return jax.grad(lambda x: sum(jnp.sum(y**2) for y in forward(x, probability)[0]))(images)

    found[name] = {'forward': measure(forward, images, jnp.float32(probability)),
                   'with_gradient': measure(gradient, images, jnp.float32(probability))}
  print(json.dumps({'jax': jax.__version__, 'device': jax.devices()[0].device_kind,
                    'batch_size': n, 'resolution': side, 'seconds': found}))


if __name__ == '__main__':
  app.run(main)
