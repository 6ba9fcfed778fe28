import logging
import os

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mat_jax import checkpoint, settings, sharding, train
from mat_jax.errors import UserError
from tests.conftest import tiny_config


def _events(workdir):
  accumulator = EventAccumulator(workdir, size_guidance={'tensors': 0})
  accumulator.Reload()
  return accumulator


def test_writes_losses_rates_and_pictures(trained):
  workdir, _ = trained
  accumulator = _events(workdir)
  tags = set(accumulator.Tags()['tensors'])
  assert {'loss/g', 'loss/d', 'loss/perceptual', 'loss/l1', 'loss/r1', 'logits/real',
          'time/sec_per_kimg', 'learning_rate/g', 'image_masked_stage1_result',
          'config'} <= tags
  assert [event.step for event in accumulator.Tensors('loss/g')] == [2, 4]
  assert [event.step for event in accumulator.Tensors('image_masked_stage1_result')] == [0, 2, 4]


def test_keeps_complete_checkpoints_only(trained):
  workdir, _ = trained
  steps = sorted(os.listdir(os.path.join(workdir, 'checkpoints')))
  assert [step for step in steps if step.isdigit()] == ['2', '4']
  assert not [name for name in steps if 'tmp' in name]


def test_a_second_start_resumes_bit_for_bit(trained, tmp_path):
  straight, config = trained
  workdir = str(tmp_path)
  train.train(tiny_config(steps=2), workdir)
  final = train.train(config, workdir)
  assert int(final.step) == 4 and int(final.images_seen) == 16
  expected = checkpoint.restore_networks(straight).networks
  for name, tree in checkpoint.restore_networks(workdir).networks.items():
    jax.tree.map(np.testing.assert_array_equal, tree, expected[name])
  assert [event.step for event in _events(workdir).Tensors('loss/g')] == [2, 4]


def _run(config, workdir):
  """A `Run` of the shared networks and settings, so of the compiled programs."""
  networks, _ = train._networks(config)
  return train.Run(
      config, sharding.make_mesh(), networks, settings.training_from_config(config), None,
      checkpoint.Checkpoints(workdir, config.model, 1), None, None)


def test_training_changes_every_part(trained, tmp_path):
  workdir, config = trained
  fresh = train._initial_state(_run(config, str(tmp_path)))
  final = checkpoint.restore_networks(workdir).networks
  for name in ('g_params', 'd_params', 'ema_params'):
    changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))),
                           getattr(fresh, name), final[name])
    share = np.mean(jax.tree.leaves(changed))
    # attn.k.bias has no gradient; Adam may leave it at its value.
    assert share > 0.9, (name, share)


def test_starts_from_another_checkpoint(trained, tmp_path):
  workdir, config = trained
  config = config.copy_and_resolve_references()
  config.init_from = workdir
  state = train._initial_state(_run(config, str(tmp_path)))
  expected = checkpoint.restore_networks(workdir).networks
  assert set(expected) == {'g_params', 'g_buffers', 'd_params', 'ema_params', 'ema_buffers'}
  for name, tree in expected.items():
    jax.tree.map(np.testing.assert_array_equal, getattr(state, name), tree)
  assert int(state.step) == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.g_optimizer)), 'a fresh optimiser'


def test_says_which_perceptual_network_it_takes(trained, caplog):
  config = trained[1].copy_and_resolve_references()
  config.train.pcp_ratio = 0.1
  with caplog.at_level(logging.INFO):
    networks, features = train._networks(config)
  assert networks.feature_network == 'vgg16' and 'conv5_3' in features
  assert 'VGG16' in caplog.text and 'vgg_weights' in caplog.text


@pytest.mark.parametrize('field,value,message', [
    ('data_dir', 'missing', 'missing'),
    ('data_dir', '', 'data_dir'),
    ('train.batch_size', 6, 'train.batch_size is 6'),
    ('train.total_kimg', -1.0, 'train.total_kimg'),
    ('train.max_to_keep', 0, 'train.max_to_keep'),
    ('data.mask_preset', 'huge', 'huge'),
    ('data.split', 'holdout', 'holdout'),
    ('init_from', 'nowhere', 'nowhere'),
])
def test_mistakes_are_named_and_leave_no_workdir(field, value, message, tmp_path):
  config = tiny_config()
  config.update_from_flattened_dict({field: value})
  workdir = str(tmp_path / 'run')
  with pytest.raises(UserError, match=message):
    train.train(config, workdir)
  assert not os.path.exists(workdir)


def test_another_architecture_is_refused(trained):
  workdir, config = trained
  config = config.copy_and_resolve_references()
  config.model.mapping_layers = 8
  with pytest.raises(UserError, match='model.mapping_layers 2, the config says 8'):
    train.train(config, workdir)
