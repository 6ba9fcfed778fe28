import dataclasses

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.reference import fill, published
from convert import names
from mat_jax import Generator
from mat_jax.nn import sizes
from mat_jax.ops.implementation import for_platform
from tests.support import reference

SMALL = Generator(resolution=64, mapping_layers=2, width=0.0625)


def _small_inputs(batch=2, side=64):
  image, mask, z = fill.inputs('small', batch, side)
  return reference.nhwc(image), reference.nhwc(mask), z


@pytest.fixture(scope='module')
def small_variables():
  return reference.random_variables(SMALL, *_small_inputs())


@pytest.fixture(scope='module')
def small_apply():
  return jax.jit(SMALL.apply, static_argnames=('noise_mode',))


@pytest.mark.parametrize('resolution,count', [(256, 59_779_834), (512, 61_562_518)])
def test_parameters_are_those_of_the_manifest(resolution, count):
  module = Generator(resolution=resolution)
  side = jnp.zeros((1, resolution, resolution, 3))
  shapes = jax.eval_shape(module.init, jax.random.key(0), side, side[..., :1], jnp.zeros((1, 512)))
  flat = traverse_util.flatten_dict(shapes)
  modulated = {path[:-2] for path in flat if path[-2] == 'affine'}
  found = {}
  for path, leaf in flat.items():
    layout = names.to_published_layout(
        np.broadcast_to(np.float32(0), leaf.shape), path[-1], path[:-1] in modulated)
    name = names.generator_name('/'.join(path[1:]), resolution)
    assert name not in found
    found[name] = list(layout.shape)
  manifest = reference.load(f'manifest_{resolution}.json')['generator']
  buffers = {name: shape for name, shape in manifest['buffers'].items()
             if not name.endswith(('resample_filter', 'attn_mask'))}
  assert found == {**manifest['parameters'], **buffers}
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == count


@pytest.mark.parametrize('name', [pytest.param('none_psi1', marks=pytest.mark.slow), 'const_psi05'])
def test_full_size_matches_the_reference(name):
  case = published.CASES[name]
  results = jax.jit(case.function(Generator(resolution=256), None))(*case.arguments())
  assert max(case.errors(results).values()) <= case.tolerance


@pytest.mark.slow
@pytest.mark.parametrize('platform', ['gpu', 'tpu', 'compact'])
def test_full_size_matches_the_reference_with_the_implementations_of(platform):
  # The attention kernel of TPUs has a test of its own: interpreted it is slow at this size.
  implementation = dataclasses.replace(for_platform(platform=platform), attention='matmuls')
  case = published.CASES['const_psi05']
  generator = Generator(resolution=256, implementation=implementation)
  results = jax.jit(case.function(generator, None))(*case.arguments())
  assert max(case.errors(results).values()) <= case.tolerance


def test_keeps_the_known_pixels(small_variables, small_apply):
  image, mask, z = _small_inputs()
  for result in small_apply(small_variables, image, mask, z, rngs={'keep': jax.random.key(0)}):
    assert result.shape == image.shape and result.dtype == jnp.float32
    np.testing.assert_array_equal(result * mask, image * mask)


def test_keep_masks_replace_the_random_stream(small_variables, small_apply):
  image, mask, z = _small_inputs()
  shapes = sizes.keep_mask_shapes(64, SMALL.width)
  keep = {name: fill.keep_mask('small', name, (2, *shape)) for name, shape in shapes.items()}
  fixed = small_apply(small_variables, image, mask, z, keep_masks=keep)
  again = small_apply(small_variables, image, mask, z, keep_masks=keep,
                      rngs={'keep': jax.random.key(7)})
  np.testing.assert_array_equal(fixed[0], again[0])
  drawn = [small_apply(small_variables, image, mask, z, rngs={'keep': jax.random.key(seed)})[0]
           for seed in (0, 0, 1)]
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert not np.allclose(drawn[0], drawn[2])


def test_other_sizes_that_the_windows_divide(small_variables, small_apply):
  image, mask, z = _small_inputs(1, 128)
  image, mask = image[:, :64], mask[:, :64]
  result, _ = small_apply(small_variables, image, mask, z, noise_mode='none',
                          rngs={'keep': jax.random.key(0)})
  assert result.shape == (1, 64, 128, 3) and np.all(np.isfinite(result))


def test_width_scales_and_resolution_is_checked():
  assert [sizes.channels(side) for side in (512, 256, 128, 64, 4)] == [64, 128, 256, 512, 512]
  assert sizes.stage1_channels() == 180 and sizes.stage1_channels(0.25) == 48
  assert sizes.keep_mask_shapes(256) == {'first': (16, 16, 180), 'second': (16, 16, 512)}
  image, mask, z = _small_inputs()
  with pytest.raises(ValueError, match='96'):
    Generator(resolution=96).init(jax.random.key(0), image, mask, z)
