import jax
import jax.numpy as jnp
import numpy as np

from mat_jax.training.step import losses


def test_adversarial_losses_are_the_logistic_ones():
  fake, real = np.array([[-2.0], [1.0]]), np.array([[0.5], [3.0]])
  softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
  np.testing.assert_allclose(losses.generator_adversarial(fake), softplus(-fake).mean(), rtol=1e-6)
  np.testing.assert_allclose(losses.discriminator_adversarial(fake, real),
                             softplus(fake).mean() + softplus(-real).mean(), rtol=1e-6)


def test_losses_are_finite_and_float32_for_extreme_bfloat16_logits():
  logits = jnp.array([[-1e4], [1e4]], jnp.bfloat16)
  loss = losses.discriminator_adversarial(logits, logits)
  assert loss.dtype == jnp.float32 and np.isfinite(loss)


def test_gradient_penalty_is_the_mean_squared_norm():
  gradient = np.random.default_rng(0).standard_normal((3, 4, 5, 2), np.float32)
  expected = np.mean([np.sum(g**2) for g in gradient])
  np.testing.assert_allclose(losses.gradient_penalty(gradient), expected, rtol=1e-6)


def test_perceptual_weighs_layers_and_stops_at_the_target():
  a = {'x': jnp.array([1.0, 2.0]), 'y': jnp.array([0.0])}
  b = {'x': jnp.array([0.0, 0.0]), 'y': jnp.array([4.0])}
  weights = {'x': 0.25, 'y': 0.5}
  np.testing.assert_allclose(losses.perceptual(a, b, weights), 0.25 * 1.5 + 0.5 * 4.0)
  gradient = jax.grad(lambda b: losses.perceptual(a, b, weights))(b)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_lecam_is_the_squared_distance_to_the_other_kinds_average():
  logits = {'real': np.array([[1.0], [3.0]]), 'fake': np.array([[-1.0], [0.0]]),
            'real_stage1': np.array([[2.0], [2.0]]), 'fake_stage1': np.array([[0.5], [0.5]])}
  averages = {'real': 1.5, 'fake': -0.5, 'real_stage1': 1.0, 'fake_stage1': 0.0}
  expected = (1.5**2 + 3.5**2) / 2 + (2.5**2 + 1.5**2) / 2 + 2.0**2 + 0.5**2
  logits = {name: jnp.asarray(value, jnp.bfloat16) for name, value in logits.items()}
  loss = losses.lecam(logits, averages)
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
