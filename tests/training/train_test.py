import logging
import os
import shutil
import signal

import jax
import numpy as np
from PIL import Image
import pytest
from tensorboard.util import tensor_util

from convert import feature_nets, from_torch, to_torch
from eval import evaluate
from input_pipeline import from_config
import main
from mat_jax.checkpoints import reader
from mat_jax.errors import UserError
from mat_jax.runtime import sharding, workdir_lock
from mat_jax.training import start
from mat_jax.training.step import settings
from tests.conftest import tiny_config
from tests.support import runs


def _fresh(config, workdir):
  """The state that a run begins with."""
  config = start.with_model_of(config, workdir)
  networks = start.make_networks(config)
  checkpoints = start.open_checkpoints(config, workdir, 28)
  return start.initial_state(config, networks, settings.training_from_config(config),
                             sharding.make_mesh(), checkpoints)


def test_writes_losses_rates_and_pictures(trained):
  workdir, _ = trained
  accumulator = runs.events(workdir)
  tags = set(accumulator.Tags()['tensors'])
  assert {'loss/g', 'loss/d', 'loss/perceptual', 'loss/l1', 'loss/r1', 'logits/real',
          'time/sec_per_kimg', 'learning_rate/g', 'data/unreadable_images', 'nonfinite_losses',
          'gradient_norm/g', 'gradient_norm/d', 'gradient_norm/r1',
          'augment/probability', 'validation/psnr', 'image_masked_stage1_result',
          'config'} <= tags
  assert [event.step for event in accumulator.Tensors('loss/g')] == [2, 4]
  assert [event.step for event in accumulator.Tensors('image_masked_stage1_result')] == [0, 2, 4]


def test_writes_a_row_for_every_tick(trained):
  workdir, _ = trained
  rows = runs.rows(workdir)
  assert [(row['step'], row['tick']) for row in rows] == [(2, 1), (4, 2)]
  accumulator = runs.events(workdir)
  for name in ('loss/g', 'validation/psnr'):
    values = [tensor_util.make_ndarray(event.tensor_proto) for event in accumulator.Tensors(name)]
    np.testing.assert_allclose(values, [row[name] for row in rows], rtol=1e-6)


def test_keeps_complete_checkpoints_only(trained):
  workdir, _ = trained
  assert sorted(os.listdir(os.path.join(workdir, 'checkpoints'))) == ['2', '4']


def test_logs_a_table_of_both_networks(trained, tmp_path, caplog):
  with caplog.at_level(logging.INFO):
    main.train(trained[1], shutil.copytree(trained[0], tmp_path / 'copy'))
  text = '\n'.join(record.message for record in caplog.records)
  first, second = text.index('Parameters of the generator'), text.index('of the discriminator')
  for name, table in (('synthesis/dec/block_32/conv1/conv/kernel', text[first:second]),
                      ('dis/block_32/conv0/kernel', text[second:])):
    line = next(line for line in table.splitlines() if line.startswith(f'| {name} '))
    assert 'float32' in line and 'Total: ' in table


def test_a_second_start_resumes_bit_for_bit(trained, tmp_path):
  straight, config = trained
  workdir = str(tmp_path)
  main.train(tiny_config(steps=2), workdir, evaluate.make_validation(config))
  main.train(config, workdir, evaluate.make_validation(config))
  jax.tree.map(np.testing.assert_array_equal, runs.state(workdir, config), runs.state(straight, config))
  assert runs.metrics(workdir) == runs.metrics(straight)
  assert runs.event_steps(workdir, 'loss/g') == [2, 4]


def test_a_signal_amid_an_evaluation_leaves_no_trace(trained, tmp_path):
  straight, config = trained
  workdir, calls = str(tmp_path), []

  def interrupted(networks, variables, should_stop):
    calls.append(should_stop())
    os.kill(os.getpid(), signal.SIGTERM)
    return evaluate.make_validation(config)(networks, variables, should_stop)

  state = main.train(config, workdir, interrupted)
  assert calls == [False] and int(state.step) == 2
  assert not os.path.exists(os.path.join(workdir, 'stats.jsonl')), 'the tick is not complete'
  main.train(config, workdir, evaluate.make_validation(config))
  jax.tree.map(np.testing.assert_array_equal, runs.state(workdir, config), runs.state(straight, config))
  assert runs.metrics(workdir) == runs.metrics(straight)
  for name in ('loss/g', 'validation/psnr'):
    assert runs.event_steps(workdir, name) == [2, 4]


def test_records_newer_than_the_checkpoint_are_made_again(trained, tmp_path):
  straight, config = trained
  workdir = str(shutil.copytree(straight, tmp_path / 'copy'))
  shutil.rmtree(os.path.join(workdir, 'checkpoints', '4'))
  main.train(config, workdir, evaluate.make_validation(config))
  assert runs.metrics(workdir) == runs.metrics(straight)
  assert runs.event_steps(workdir, 'loss/g') == [2, 4]


def test_unreadable_images_are_in_the_metrics(trained, tmp_path):
  for i in range(120):
    path = tmp_path / 'images' / f'{i:03}.png'
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', (64, 64), (i, 0, 0)).save(path)
  config = tiny_config(steps=5)
  config.data_dir, config.train.sample_images = str(tmp_path / 'images'), 0
  config.accept_changes = 'images'
  stream = from_config.training_stream(config, *from_config.open_training(config), 4, 0, 1)
  level = np.rint((next(stream)['image'][1, 0, 0, 0] + 1) * 127.5).astype(int)
  (tmp_path / 'images' / f'{level:03}.png').write_bytes(b'broken')
  workdir = str(shutil.copytree(trained[0], tmp_path / 'workdir'))
  assert int(main.train(config, workdir).step) == 5
  assert runs.rows(workdir)[-1]['step'] == 5 and runs.rows(workdir)[-1]['data/unreadable_images'] == 1


def test_training_changes_every_part(trained, tmp_path):
  workdir, config = trained
  fresh = _fresh(config, str(tmp_path))
  final = reader.restore_networks(workdir).networks
  for name in ('g_params', 'd_params', 'ema_params'):
    # attn.k.bias has no gradient; Adam may leave it at its value.
    assert _changed(getattr(fresh, name), final[name]) > 0.9, name


def test_starts_from_another_checkpoint(trained, tmp_path):
  workdir, config = trained
  config = config.copy_and_resolve_references()
  config.init_from = workdir
  config.model.mapping_layers = None  # it is that of the checkpoint
  state = _fresh(config, str(tmp_path))
  expected = reader.restore_networks(workdir).networks
  assert set(expected) == {'g_params', 'g_buffers', 'd_params', 'ema_params', 'ema_buffers'}
  for name, tree in expected.items():
    jax.tree.map(np.testing.assert_array_equal, getattr(state, name), tree)
  assert int(state.step) == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.g_optimizer)), 'a fresh optimiser'


def test_a_fresh_discriminator_catches_up_before_the_generator_moves(trained, tmp_path, caplog):
  weights, begin = str(tmp_path / 'weights.safetensors'), str(tmp_path / 'start')
  to_torch.convert_file(trained[0], weights)
  from_torch.convert_file(weights, begin)
  workdir = str(tmp_path / 'run')
  for steps in (1, 3):  # the second run resumes amid the warm-up, which is over after two steps
    config = tiny_config(steps)
    config.init_from = begin
    config.train.discriminator_warmup_kimg = 0.008
    with caplog.at_level(logging.INFO):
      main.train(config, workdir)
  assert 'fresh one is trained for 0.008 kimg' in caplog.text
  given = reader.restore_networks(begin).networks
  warm, final = (reader.restore_networks(f'{workdir}/checkpoints/{step}').networks
                 for step in (2, 3))
  for name in given:
    jax.tree.map(np.testing.assert_array_equal, warm[name], given[name])
  fresh = _fresh(tiny_config(), str(tmp_path / 'fresh')).d_params
  assert _changed(fresh, warm['d_params']) > 0.9
  assert _changed(given['g_params'], final['g_params']) > 0.9
  assert [('loss/g' in row, 'loss/d' in row) for row in runs.rows(workdir)] == [
      (False, True), (False, True), (True, True)]


def test_without_adversarial_losses_there_is_no_discriminator(trained, tmp_path, caplog):
  workdir, config = str(tmp_path / 'run'), tiny_config(2)
  config.train.adversarial_weight = config.train.adversarial_stage1_weight = 0.0
  fresh, state = _fresh(config, str(tmp_path / 'fresh')), main.train(config, workdir)
  jax.tree.map(np.testing.assert_array_equal, state.d_params, fresh.d_params)
  assert _changed(fresh.g_params, state.g_params) > 0.9
  assert not {'loss/g', 'loss/d', 'loss/r1', 'signs/real'} & set(runs.rows(workdir)[-1])
  assert 'd_params' not in reader.restore_networks(workdir).networks
  # With adversarial losses the fresh discriminator has to catch up first.
  config = tiny_config()
  config.init_from = workdir
  with caplog.at_level(logging.WARNING):
    assert int(_fresh(config, str(tmp_path / 'next')).warmup_images) == 4000
  assert 'no trained discriminator' in caplog.text


def _changed(before, after):
  changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before, after)
  return np.mean(jax.tree.leaves(changed))


def test_losses_that_are_not_finite_end_the_run_with_the_last_good_checkpoint(
    trained, tmp_path, caplog):
  workdir = str(shutil.copytree(trained[0], tmp_path / 'copy'))
  config = tiny_config(steps=9)
  config.train.max_nonfinite_steps, config.train.profile_steps = 3, 1
  state = runs.state(workdir, config)
  checkpoints = start.open_checkpoints(start.with_model_of(config, workdir), workdir, 28)
  poisoned = jax.tree.map(lambda x: x * np.float32(np.nan), state.d_params)
  checkpoints.save(state.replace(step=state.step + 1, images_seen=state.images_seen + 4,
                                 d_params=poisoned))
  checkpoints.close()
  with pytest.raises(UserError, match='step 8, after 3 steps in a row .*: loss/g is nan'):
    main.train(config, workdir)
  assert 'Step 6: loss/g is nan, loss/g_stage1 is nan, loss/d is nan' in caplog.text
  assert '(2 in a row)' in caplog.text
  best = min(runs.rows(trained[0]), key=lambda row: row['validation/lpips_alex'])['step']
  assert set(os.listdir(os.path.join(workdir, 'checkpoints'))) == {str(best), '4', '5'}
  assert runs.rows(workdir)[-1]['step'] == 6 and runs.rows(workdir)[-1]['nonfinite_losses'] > 0
  assert os.listdir(os.path.join(workdir, 'plugins', 'profile')), 'step 8 was profiled'


def test_says_which_perceptual_network_it_takes(trained, caplog):
  config = trained[1].copy_and_resolve_references()
  config.train.pcp_ratio = 0.1
  with caplog.at_level(logging.INFO):
    network, params = feature_nets.for_training(config.train)
  assert network == 'vgg16' and 'conv5_3' in params
  assert 'VGG16' in caplog.text and 'vgg_weights' in caplog.text


@pytest.mark.parametrize('fields,warns', [
    ({}, True), ({'is_fine_tuning': False}, False), ({'train.total_kimg': 2000.0}, False),
    ({'init_from': 'trained'}, False)])
def test_fine_tuning_from_nothing_warns(trained, tmp_path, caplog, fields, warns):
  config = tiny_config()
  config.is_fine_tuning = True
  config.update_from_flattened_dict(fields)
  if config.init_from:
    config.init_from = trained[0]
  _fresh(config, str(tmp_path))
  assert ('begins with random weights and ends after 0.016 kimg' in caplog.text) == warns
  assert ('\n    --config.init_from=models/celebahq256\n' in caplog.text) == warns


def test_a_resumed_run_needs_no_start(trained, caplog):
  config = trained[1].copy_and_resolve_references()
  config.is_fine_tuning = True
  assert int(_fresh(config, trained[0]).step) == 4
  assert 'random weights' not in caplog.text


@pytest.mark.parametrize('field,value,message', [
    ('data_dir', 'missing', 'missing'),
    ('data_dir', '', 'data_dir'),
    ('train.batch_size', 6, 'train.batch_size is 6'),
    ('train.microbatch', 3, 'train.microbatch is 3, which does not divide train.batch_size 4'),
    ('train.microbatch', 2, 'train.microbatch is 2; choose a multiple of 4'),
    ('train.total_kimg', -1.0, 'train.total_kimg'),
    ('train.discriminator_warmup_kimg', -1.0, 'train.discriminator_warmup_kimg'),
    ('train.max_to_keep', 0, 'train.max_to_keep'),
    ('train.freeze_d_blocks', 5, 'train.freeze_d_blocks is 5, and .* has 3 blocks'),
    ('train.best_metric', 'fid', "train.best_metric is 'fid'; choose among lpips_alex"),
    ('accept_changes', 'sed', "accept_changes has 'sed'; choose among seed"),
    ('augment.pipeline', 'bgx', 'augment.pipeline'),
    ('augment.max_probability', 1.5, 'augment.max_probability is 1.5'),
    ('augment.interval', 0, 'augment.interval is 0'),
    ('train.feature_downsample', 3, 'feature_downsample is 3; give a divisor'),
    ('data.mask_preset', 'huge', 'huge'),
    ('data.split', 'holdout', 'holdout'),
    ('init_from', 'nowhere', 'nowhere'),
])
def test_mistakes_are_named_and_leave_no_workdir(field, value, message, tmp_path):
  config = tiny_config()
  config.update_from_flattened_dict({field: value})
  workdir = str(tmp_path / 'run')
  with pytest.raises(UserError, match=message):
    main.train(config, workdir)
  assert not os.path.exists(workdir)


@pytest.mark.parametrize('field,value,message', [
    ('model.mapping_layers', 8, 'model.mapping_layers 2, the config says 8'),
    ('seed', 7, 'seed is 0 there and 7 here; set --config.seed=0 .*accept_changes=seed'),
    ('data.split', 'test', 'number of training images is 28 there and 2 here'),
])
def test_a_resumed_run_that_differs_is_refused(trained, field, value, message):
  workdir, config = trained
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message):
    main.train(config, workdir)


def test_another_run_in_the_workdir_is_refused(trained):
  workdir, config = trained
  with workdir_lock.hold(workdir), pytest.raises(UserError, match='another run.*' + workdir):
    main.train(config, workdir)
