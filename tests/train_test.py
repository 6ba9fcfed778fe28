import logging
import os
import shutil

import jax
import numpy as np
from PIL import Image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from convert import from_torch, to_torch
from input_pipeline import from_config
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
          'time/sec_per_kimg', 'learning_rate/g', 'data/unreadable_images',
          'image_masked_stage1_result', 'config'} <= tags
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


def test_unreadable_images_are_in_the_metrics(trained, tmp_path):
  for i in range(120):
    path = tmp_path / 'images' / f'{i:03}.png'
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', (64, 64), (i, 0, 0)).save(path)
  config = tiny_config(steps=5)
  config.data_dir, config.train.sample_images = str(tmp_path / 'images'), 0
  stream = from_config.training_stream(config, *from_config.open_training(config), 4, 0, 1)
  level = np.rint((next(stream)['image'][1, 0, 0, 0] + 1) * 127.5).astype(int)
  (tmp_path / 'images' / f'{level:03}.png').write_bytes(b'broken')
  workdir = str(tmp_path / 'workdir')
  shutil.copytree(trained[0], workdir)
  assert int(train.train(config, workdir).step) == 5
  event = _events(workdir).Tensors('data/unreadable_images')[-1]
  assert event.step == 5 and tensor_util.make_ndarray(event.tensor_proto) == 1


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
    # attn.k.bias has no gradient; Adam may leave it at its value.
    assert _changed(getattr(fresh, name), final[name]) > 0.9, name


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


def test_a_fresh_discriminator_catches_up_before_the_generator_moves(trained, tmp_path, caplog):
  weights, start = str(tmp_path / 'weights.safetensors'), str(tmp_path / 'start')
  to_torch.convert_file(trained[0], weights)
  from_torch.convert_file(weights, start)
  workdir = str(tmp_path / 'run')
  for steps in (1, 3):  # the second run resumes amid the warm-up, which is over after two steps
    config = tiny_config(steps)
    config.init_from = start
    config.train.discriminator_warmup_kimg = 0.008
    with caplog.at_level(logging.INFO):
      train.train(config, workdir)
  assert 'fresh one is trained for 0.008 kimg' in caplog.text
  given = checkpoint.restore_networks(start).networks
  warm, final = (checkpoint.restore_networks(f'{workdir}/checkpoints/{step}').networks
                 for step in (2, 3))
  for name in given:
    jax.tree.map(np.testing.assert_array_equal, warm[name], given[name])
  fresh = train._initial_state(_run(tiny_config(), str(tmp_path / 'fresh'))).d_params
  assert _changed(fresh, warm['d_params']) > 0.9
  assert _changed(given['g_params'], final['g_params']) > 0.9
  losses = _events(workdir)
  assert [event.step for event in losses.Tensors('loss/d')] == [1, 2, 3]
  assert [event.step for event in losses.Tensors('loss/g')] == [3]


def _changed(before, after):
  changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before, after)
  return np.mean(jax.tree.leaves(changed))


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
    ('train.discriminator_warmup_kimg', -1.0, 'train.discriminator_warmup_kimg'),
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
