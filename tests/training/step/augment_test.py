import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mat_jax.errors import UserError
from mat_jax.training.step import augment, losses
from mat_jax.training.step.warp import warp

N, SIDE = 16, 16
EVERYTHING = augment.Pipeline()

apply = jax.jit(augment.apply)
draw = jax.jit(augment.sample, static_argnums=(1, 3, 4, 5))


def transforms_of(probability, letters='bgc', seed=0):
  pipeline = augment.Pipeline.from_letters(letters)
  return draw(jax.random.key(seed), N, probability, pipeline, SIDE, SIDE)


@functools.cache
def example():
  """A real image, two with other content in the hole, and the mask with the hole."""
  images = np.random.default_rng(0).uniform(-1, 1, (3, N, SIDE, SIDE, 3)).astype(np.float32)
  mask = np.ones((N, SIDE, SIDE, 1), np.float32)
  mask[:, 4:11, 3:12] = 0
  real, *generated = images
  return (real, *(np.where(mask > 0, real, image) for image in generated)), mask


def assert_same(result, expected, where=slice(None)):
  images, mask = result
  for image, before in zip((*images, mask), (*expected[0], expected[1]), strict=True):
    np.testing.assert_array_equal(image[where], before[where])


@pytest.mark.parametrize('letters,kinds', [
    ('', ()), ('b', ('blit',)), ('cg', ('geometric', 'color')),
    ('bgc', ('blit', 'geometric', 'color'))])
def test_letters_choose_the_kinds(letters, kinds):
  pipeline = augment.Pipeline.from_letters(letters)
  for kind in ('blit', 'geometric', 'color'):
    assert getattr(pipeline, kind) == (kind in kinds)
  assert hash(pipeline) == hash(augment.Pipeline.from_letters(letters))


def test_another_letter_is_a_user_error():
  with pytest.raises(UserError, match="augment.pipeline is 'bgn'; choose letters of 'bgc'"):
    augment.Pipeline.from_letters('bgn')


def test_images_that_are_not_square_cannot_be_turned():
  with pytest.raises(ValueError, match='16 x 32'):
    augment.sample(jax.random.key(0), 2, 0.5, EVERYTHING, 16, 32)
  jax.eval_shape(lambda key: augment.sample(key, 2, 0.5, augment.Pipeline(blit=False), 16, 32),
                 jax.random.key(0))


@pytest.mark.parametrize('probability,letters,active', [
    (0.0, 'bgc', True), (1.0, 'bgc', False), (1.0, '', True)])
def test_without_augmentation_nothing_changes_by_a_bit(probability, letters, active):
  assert_same(apply(transforms_of(probability, letters), *example(), active), example())


def test_examples_for_which_nothing_fired_stay_the_same_to_the_bit():
  transforms = transforms_of(0.1)
  touched = np.asarray(transforms.warped | transforms.recolored)
  assert 2 < touched.sum() < N - 2
  result = apply(transforms, *example(), True)
  assert_same(result, example(), ~touched)
  changed = np.abs(result[0][0] - example()[0][0]).max((1, 2, 3)) > 0
  np.testing.assert_array_equal(changed, touched)
  # A new colour alone leaves the mask.
  np.testing.assert_array_equal(result[1][~transforms.warped], example()[1][~transforms.warped])


def test_pipelines_have_only_their_kinds():
  color, geometry = transforms_of(1.0, 'c'), transforms_of(1.0, 'g')
  assert color.inverse is None and geometry.color is None
  images, mask = apply(color, *example(), True)
  np.testing.assert_array_equal(mask, example()[1])
  assert np.abs(images[0] - example()[0][0]).max((1, 2, 3)).min() > 0.01
  _, mask = apply(geometry, *example(), True)
  assert (np.asarray(mask) != example()[1]).any((1, 2, 3)).all()


def test_images_and_mask_move_alike():
  images, mask = example()
  # The mask painted in a colour, of which every channel is a shifted multiple of it.
  painted = (2 * mask - 1) * np.array([0.2, -0.7, 1.0], np.float32)
  (moved, _, _), moved_mask = apply(
      transforms_of(1.0, 'bg'), (painted, images[1], images[2]), mask, True)
  for channel, sign in enumerate((1, -1, 1)):
    agree = (sign * np.asarray(moved)[..., channel] >= 0) == (np.asarray(moved_mask)[..., 0] > 0)
    # All but values that rounding takes to the other side of the threshold.
    assert agree.mean() > 0.999


def test_the_mask_stays_binary_and_kept_pixels_stay_equal():
  (real, *generated), mask = apply(transforms_of(1.0), *example(), True)
  mask = np.asarray(mask)
  assert set(np.unique(mask)) == {0.0, 1.0}
  for image in generated:
    same = np.asarray(image) == np.asarray(real)
    assert same[np.broadcast_to(mask > 0, same.shape)].all()
    assert (~same).any((1, 2, 3)).sum() > N / 2


def test_an_image_alone_is_warped_and_nothing_else():
  transforms = transforms_of(1.0, 'bg')
  real = example()[0][0]
  (image,), _ = apply(transforms, (real,), example()[1], True)
  np.testing.assert_allclose(image, jax.jit(warp)(real, transforms.inverse), atol=1e-5)


def test_parts_of_a_batch_get_what_the_whole_gets():
  transforms = transforms_of(0.7)
  whole = apply(transforms, *example(), True)
  for part in (slice(0, 4), slice(4, 8)):
    cut = jax.tree.map(lambda leaf, part=part: leaf[part], (transforms, *example()))
    for a, b in zip(jax.tree.leaves(apply(*cut, True)), jax.tree.leaves(whole), strict=True):
      np.testing.assert_allclose(a, b[part], atol=1e-5)


def test_results_have_the_dtypes_of_the_inputs():
  (real, *_), mask = example()
  (a, b), new_mask = jax.eval_shape(
      augment.apply, transforms_of(1.0), (real, jnp.asarray(real, jnp.bfloat16)),
      jnp.asarray(mask, jnp.bfloat16), True)
  assert (a.dtype, b.dtype, new_mask.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)


def test_gradients_of_both_orders_are_right_and_none_reaches_the_mask():
  transforms, (real, generated, _), mask = jax.tree.map(
      lambda leaf: leaf[:2], (transforms_of(1.0), *example()))
  # Of the second example only the colours.
  transforms = transforms.replace(warped=jnp.array([True, False]))

  def energy(images, mask):
    changed, new_mask = augment.apply(transforms, images, mask, True)
    return sum(jnp.mean(jnp.sin(2 * image)) for image in changed) + jnp.mean(new_mask)

  def slope(images, mask, direction):
    gradient = jax.grad(energy)(images, mask)
    return sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True))

  @jax.jit
  def derivatives(images, direction):
    curvature, mask_gradient = jax.grad(slope, (0, 1))(images, mask, direction)
    return (energy(images, mask), slope(images, mask, direction),
            sum(jnp.vdot(c, d) for c, d in zip(curvature, direction, strict=True)),
            mask_gradient, jax.grad(energy, 1)(images, mask))

  images, step = (real, generated), 0.02
  # Smooth directions, which the filters do not average out.
  direction = tuple(np.sign(np.sum(image, (1, 2, 3), keepdims=True)) + 0 * image
                    for image in images)
  before, after = (
      derivatives(jax.tree.map(lambda i, d, s=sign: i + s * step * d, images, direction), direction)
      for sign in (-1, 1))
  _, first, second, *mask_gradients = derivatives(images, direction)
  assert abs(first) > 0.1 and abs(second) > 0.1
  np.testing.assert_allclose((after[0] - before[0]) / (2 * step), first, rtol=1e-2)
  np.testing.assert_allclose((after[1] - before[1]) / (2 * step), second, rtol=1e-2)
  assert not any(np.any(gradient) for gradient in mask_gradients)


def differing(parameters, neutral):
  """name -> share of images whose parameter is not the neutral one."""
  return {
      name: float(np.mean(np.any(
          np.reshape(value != getattr(neutral, name), (len(value), -1)), 1)))
      for name, value in vars(parameters).items()}


@functools.partial(jax.jit, static_argnums=(0,))
def many_parameters(count, probability):
  geometry_key, color_key = jax.random.split(jax.random.key(3))
  return (augment.sample_geometry(geometry_key, count, probability, EVERYTHING, 512, 512),
          augment.sample_color(color_key, count, probability, EVERYTHING))


@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_each_transform_fires_with_the_probability(probability):
  count = 8192
  geometry, color = many_parameters(count, probability)
  shares = (differing(geometry, augment.Geometry.neutral(count))
            | differing(color, augment.Color.neutral(count)))
  # Shares of draws that are not neutral, and of transforms that do not fire with it.
  expected = dict.fromkeys(shares, probability)
  for name, share in (('flip', 0.5), ('luma', 0.5), ('quarter_turns', 0.75)):
    expected[name] *= share
  for name in ('pre_rotation', 'post_rotation'):
    expected[name] = 1 - math.sqrt(1 - probability)
  assert len(shares) == 13
  for name, share in shares.items():
    assert abs(share - expected[name]) <= 0.02 * (0 < expected[name] < 1) + 1e-3, name
  rotated = (geometry.pre_rotation != 0) | (geometry.post_rotation != 0)
  assert abs(np.mean(rotated) - probability) < 0.02
  # Two transforms fire independently of each other.
  both = np.mean((geometry.scale != 1) & (color.hue != 0))
  assert abs(both - probability**2) < 0.02


def test_certain_transforms_have_the_distributions_of_the_paper():
  geometry, color = many_parameters(8192, 1.0)
  deviations = {
      'scale': (np.log2(geometry.scale), 0.2), 'aspect': (np.log2(geometry.aspect), 0.2),
      'shift': (geometry.shift / 512, 0.125), 'brightness': (color.brightness, 0.2),
      'contrast': (np.log2(color.contrast), 0.5), 'saturation': (np.log2(color.saturation), 1.0)}
  for name, (values, deviation) in deviations.items():
    assert abs(np.std(values) / deviation - 1) < 0.03, name
    assert abs(np.mean(values)) < 0.05 * deviation, name
  for angles in (geometry.pre_rotation, geometry.post_rotation, color.hue):
    counts, _ = np.histogram(angles, 8, (-math.pi, math.pi))
    assert counts.sum() == 8192 and counts.min() > 900
  translation = np.asarray(geometry.translation)
  np.testing.assert_array_equal(translation, np.round(translation))
  assert translation.min() == -64 and translation.max() == 64
  np.testing.assert_allclose(np.bincount(geometry.quarter_turns) / 8192, 0.25, atol=0.02)


LUMA = np.full((3, 3), 1 / 3)


def hue_rotation(angle):
  """Rotation about (1, 1, 1) by the matrix exponential's eigenvectors."""
  axis = np.ones(3) / math.sqrt(3)
  first = np.array([1, -1, 0]) / math.sqrt(2)
  second = np.cross(axis, first)
  basis = np.stack([axis, first, second], 1)
  c, s = math.cos(angle), math.sin(angle)
  return basis @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ basis.T


COLORS = {
    'brightness': (0.3, lambda x: x + 0.3),
    'contrast': (1.7, lambda x: 1.7 * x),
    'luma': (-1.0, lambda x: x - 2 * x.mean(-1, keepdims=True)),
    'hue': (0.8, lambda x: x @ hue_rotation(0.8).T),
    'saturation': (0.4, lambda x: x @ (LUMA + 0.4 * (np.eye(3) - LUMA)).T)}


def recolor(images, **parameters):
  color = augment.Color.neutral(N).replace(
      **{name: jnp.full(N, value) for name, value in parameters.items()})
  transforms = augment.Transforms(
      color=augment.color_matrix(color), recolored=jnp.ones(N, bool))
  return apply(transforms, images, example()[1], True)


@pytest.mark.parametrize('name', COLORS)
def test_each_colour_transform_is_its_formula(name):
  images, mask = example()
  value, formula = COLORS[name]
  recolored, new_mask = recolor(images, **{name: value})
  for image, before in zip(recolored, images, strict=True):
    np.testing.assert_allclose(image, formula(before), atol=1e-5)
  np.testing.assert_array_equal(new_mask, mask)


def test_colour_transforms_follow_one_another():
  images, _ = example()
  recolored, _ = recolor(images, **{name: value for name, (value, _) in COLORS.items()})
  expected = images[0]
  for _, formula in COLORS.values():
    expected = formula(expected)
  np.testing.assert_allclose(recolored[0], expected, atol=1e-5)


def test_a_third_of_the_circle_takes_red_to_green():
  red = np.broadcast_to(np.array([1, 0, 0], np.float32), (N, SIDE, SIDE, 3))
  (green,), _ = recolor((red,), hue=2 * math.pi / 3)
  np.testing.assert_allclose(green[0, 0, 0], [0, 1, 0], atol=1e-6)


@pytest.mark.parametrize('probability,mean,expected', [
    (0.5, 0.9, 0.51), (0.5, 0.3, 0.49), (0.5, -1.0, 0.49), (0.5, 0.75, 0.5), (0.0, -0.5, 0.0),
    (0.005, 0.2, 0.0), (0.8, 1.0, 0.8), (0.795, 1.0, 0.8)])
def test_the_probability_nears_the_target_within_its_bounds(probability, mean, expected):
  moved = augment.adapt(
      jnp.float32(probability), jnp.float32(64 * mean), jnp.float32(64), target=0.75,
      step_size=0.01, max_probability=0.8)
  assert moved.dtype == jnp.float32
  np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_without_signs_the_probability_stays():
  zero = jnp.float32(0)
  moved = augment.adapt(
      jnp.float32(0.3), zero, zero, target=0.6, step_size=0.01, max_probability=0.8)
  assert moved == jnp.float32(0.3)


def toy_images(key, count):
  """[count, 16, 16, 3] with a bright reddish bar in their left half."""
  place_key, light_key, noise_key = jax.random.split(key, 3)
  first = jax.random.randint(place_key, (count, 1), 1, 4)
  column = jnp.arange(SIDE)
  bar = ((column >= first) & (column < first + 4)).astype(jnp.float32)[:, None, :, None]
  light = 1 + 0.1 * jax.random.normal(light_key, (count, 1, 1, 1))
  noise = 0.1 * jax.random.normal(noise_key, (count, SIDE, SIDE, 3))
  return noise + bar * light * jnp.array([1.0, 0.5, -0.2]) - 0.5


def like_the_toys(images):
  """Share of images with the brightest half on the left and red the strongest channel."""
  light = images.mean(-1)
  halves = jnp.stack([light[:, :, :8], light[:, :, 8:], light[:, :8].swapaxes(1, 2),
                      light[:, 8:].swapaxes(1, 2)]).mean((2, 3))
  return jnp.mean((halves.argmax(0) == 0) & (images.mean((1, 2)).argmax(-1) == 0))


def dense_layers(key, *widths):
  return [(jax.random.normal(layer_key, (inputs, outputs)) / math.sqrt(inputs), jnp.zeros(outputs))
          for layer_key, inputs, outputs in zip(
              jax.random.split(key, len(widths) - 1), widths[:-1], widths[1:], strict=True)]


def perceptron(layers, x):
  for kernel, bias in layers[:-1]:
    x = jax.nn.leaky_relu(x @ kernel + bias, 0.2)
  return x @ layers[-1][0] + layers[-1][1]


def toy_generate(g_params, key, count):
  pixels = jnp.tanh(perceptron(g_params, jax.random.normal(key, (count, 8))))
  return 1.5 * jnp.repeat(jnp.repeat(pixels.reshape(count, 8, 8, 3), 2, 1), 2, 2)


def toy_logits(d_params, key, probability, images):
  """Of images that pass the flips, turns, translations and colours."""
  count = len(images)
  transforms = augment.sample(
      key, count, probability, augment.Pipeline.from_letters('bc'), SIDE, SIDE)
  (images,), _ = augment.apply(transforms, (images,), jnp.zeros((count, SIDE, SIDE, 1)), True)
  small = images.reshape(count, 8, 2, 8, 2, 3).mean((2, 4))
  return perceptron(d_params, small.reshape(count, -1))


def toy_losses(params, key, probability, count=32):
  """Of both networks: each is differentiated by its own parameters only."""
  g_params, d_params = params
  keys = jax.random.split(key, 4)
  real = toy_images(keys[0], count)
  fake = toy_generate(g_params, keys[1], count)
  g_loss = losses.generator_adversarial(
      toy_logits(lax.stop_gradient(d_params), keys[2], probability, fake))
  gradient = jax.grad(lambda x: jnp.sum(toy_logits(d_params, keys[3], probability, x)))(real)
  return g_loss + 0.5 * losses.gradient_penalty(gradient) + losses.discriminator_adversarial(
      toy_logits(d_params, keys[2], probability, lax.stop_gradient(fake)),
      toy_logits(d_params, keys[3], probability, real))


def train_toy(key, probability, steps=1200):
  """`like_the_toys` of what the moving average of a generator makes at the end."""
  g_key, d_key, step_key, final_key = jax.random.split(key, 4)
  params = dense_layers(g_key, 8, 32, 192), dense_layers(d_key, 192, 64, 64, 1)
  optimizer = optax.adam(2e-3, 0.0, 0.99)

  def step(state, key):
    params, moments, average = state
    updates, moments = optimizer.update(jax.grad(toy_losses)(params, key, probability), moments)
    params = optax.apply_updates(params, updates)
    return (params, moments, optax.incremental_update(params[0], average, 0.02)), None

  (_, _, average), _ = lax.scan(
      step, (params, optimizer.init(params), params[0]), jax.random.split(step_key, steps))
  return like_the_toys(toy_generate(average, final_key, 256))


@pytest.mark.slow
def test_augmentation_does_not_leak_unless_it_hides_what_is_real():
  assert like_the_toys(toy_images(jax.random.key(0), 256)) > 0.99
  seeds, probabilities = jnp.tile(jnp.arange(3), 2), jnp.repeat(jnp.array([0.6, 1.0]), 3)
  shares = jax.jit(jax.vmap(train_toy))(jax.vmap(jax.random.key)(seeds), probabilities)
  assert shares[:3].min() > 0.9
  # Certain transforms show all orientations and hues alike: nothing tells which are real.
  assert shares[3:].mean() < 0.6
