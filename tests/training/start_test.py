import logging
import os
import shutil

from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import feature_nets, to_torch
import main
from mat_jax.checkpoints.reader import restore_networks
from mat_jax.errors import UserError
from mat_jax.runtime import sharding
from mat_jax.runtime.storage.disk import UnreachableError
from mat_jax.training import start
from mat_jax.training.step import accumulators, loss_scale, settings
from tests.support import runs


def _files(workdir):
  """Path -> size of all files, and the links."""
  return {os.path.relpath(os.path.join(parent, name), workdir):
          os.lstat(os.path.join(parent, name)).st_size
          for parent, _, names in os.walk(workdir) for name in names if name != '.lock'}


@pytest.mark.parametrize('item', ['meta', 'training'])
def test_a_disk_that_does_not_answer_costs_no_checkpoint_and_no_records(trained, tmp_path, item):
  workdir = shutil.copytree(trained[0], tmp_path / 'run')
  largest = max((workdir / 'checkpoints' / '4' / item).rglob('*'), key=os.path.getsize)
  hidden = largest.rename(tmp_path / 'hidden')
  largest.symlink_to(largest)  # opening it is an error of the system, whoever asks
  before, rows = _files(workdir), runs.rows(workdir)
  with pytest.raises(UnreachableError, match='4/.*nothing has been changed'):
    main.train(trained[1], str(workdir))
  assert _files(workdir) == before
  largest.unlink()
  hidden.rename(largest)
  assert int(main.train(trained[1], str(workdir)).step) == 4
  assert runs.rows(workdir) == rows


def test_the_model_of_init_from_is_taken(trained, tmp_path):
  config = trained[1].copy_and_resolve_references()
  config.init_from = f'{trained[0]}/best'
  config.model.mapping_layers = None
  found = start.with_model_of(config, str(tmp_path / 'new'))
  assert found.model.mapping_layers == trained[1].model.mapping_layers


def test_a_discriminator_on_features_comes_and_goes_with_the_run(trained, tmp_path):
  config = trained[1].copy_and_resolve_references()
  config.model.resolution = 64  # it has no use for the features of smaller images
  begin = str(tmp_path / 'begin')
  checkpoints, state = _begin(config, begin)
  checkpoints.save(state.replace(step=state.step + 1))
  checkpoints.close()
  config.init_from, config.train.projected_weight = begin, 1.0
  branches, heads = {'dis', 'dis_stage1'}, {'dis', 'dis_stage1', 'projected'}
  workdir = str(tmp_path / 'with')

  checkpoints, state = _begin(config, workdir)
  assert set(state.d_params) == heads
  published = restore_networks(config.init_from).networks['d_params']
  jax.tree.map(np.testing.assert_array_equal, published, {k: state.d_params[k] for k in branches})
  checkpoints.save(state.replace(step=state.step + 1))
  checkpoints.close()
  _, resumed = _begin(config, workdir)
  jax.tree.map(np.testing.assert_array_equal, resumed.d_params, state.d_params)
  config.init_from, config.train.projected_weight = workdir, 0.0
  assert set(_begin(config, str(tmp_path / 'without'))[1].d_params) == branches
  to_torch.convert_file(workdir, str(tmp_path / 'weights.pth'), 'D')


def _begin(config, workdir, num_images=1):
  networks = start.make_networks(config)
  checkpoints = start.open_checkpoints(config, workdir, num_images)
  return checkpoints, start.initial_state(
      config, networks, settings.training_from_config(config), sharding.make_mesh(), checkpoints)


def test_a_run_goes_on_in_float16_and_back(trained, tmp_path):
  config = trained[1].copy_and_resolve_references()
  workdir = str(shutil.copytree(trained[0], tmp_path / 'run'))
  _, exact = _begin(config, workdir, 28)
  config.model.dtype = 'float16'
  checkpoints, state = _begin(config, workdir, 28)
  assert exact.loss_scale is None
  jax.tree.map(np.testing.assert_array_equal, state.loss_scale, loss_scale.fresh())
  jax.tree.map(np.testing.assert_array_equal, state.replace(loss_scale=None), exact)
  state.loss_scale['g'] = state.loss_scale['g'].replace(skipped=jnp.int32(7))
  checkpoints.save(state.replace(step=state.step + 1))
  checkpoints.close()
  assert _begin(config, workdir, 28)[1].loss_scale['g'].skipped == 7
  config.model.dtype = 'float32'
  assert _begin(config, workdir, 28)[1].loss_scale is None


def test_a_run_of_an_older_version_begins_to_accumulate_gradient_norms(trained, tmp_path):
  config = trained[1].copy_and_resolve_references()
  workdir = str(shutil.copytree(trained[0], tmp_path / 'run'))
  checkpoints, state = _begin(config, workdir, 28)
  checkpoints.save(state.replace(step=state.step + 1, gradient_norms=None))
  checkpoints.close()
  _, resumed = _begin(config, workdir, 28)
  assert int(resumed.step) == int(state.step) + 1
  jax.tree.map(np.testing.assert_array_equal, resumed.gradient_norms, accumulators.no_norms())


def test_growing_takes_over_what_a_lower_resolution_has(trained, tmp_path, caplog):
  config, workdir = trained[1].copy_and_resolve_references(), str(tmp_path / 'low')
  config.model.resolution = 32
  checkpoints, low = _begin(config, workdir, 28)
  checkpoints.save(low.replace(step=low.step + 1))
  checkpoints.close()
  config.model.resolution, config.init_from, config.grow = 64, workdir, True
  assert start.with_model_of(config, str(tmp_path / 'new')).model.resolution == 64
  with caplog.at_level(logging.INFO):
    _, state = _begin(config, str(tmp_path / 'new'))
  for name in ('g_params', 'd_params', 'ema_params', 'g_buffers'):
    ours, theirs = (flatten_dict(getattr(x, name)) for x in (state, low))
    same = {key for key in ours if key in theirs and ours[key].shape == theirs[key].shape}
    assert same and all(np.array_equal(ours[key], theirs[key]) for key in same), name
    assert all({'block_64', 'down_conv_2'} & set(key) or key[1:] == ('enc', 'block_32', 'conv0',
               'kernel') for key in ours.keys() - same), name
  assert 'Growing from 32 to 64 px' in caplog.text and 'block_64' in caplog.text
  config.model.resolution = 32
  with pytest.raises(UserError, match='grow is for networks of a lower resolution.*32 px'):
    _begin(config, str(tmp_path / 'same'))


def test_losses_on_vgg16_need_vgg16(trained, monkeypatch):
  config = trained[1].copy_and_resolve_references()
  config.train.update(lpips_weight=1.0, vgg_weights='vgg19')
  monkeypatch.setattr(feature_nets, 'load_vgg', lambda weights: ('vgg19', {}))
  with pytest.raises(UserError, match='train.lpips_weight needs VGG16'):
    feature_nets.for_training(config.train)
