"""The start of a run: its networks, and a fresh, warm-started or resumed state."""

from typing import Any

from absl import logging
from clu import parameter_overview
import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from mat_jax.checkpoints.manager import Best, Checkpoints
from mat_jax.checkpoints.reader import (
  PretrainedNetworks,
  abstract_state,
  check_architecture,
  read_model,
  resolve_model_config,
  restore_networks,
)
from mat_jax.checkpoints.resume import check_resume, parse_accepted
from mat_jax.checkpoints.step_directories import newest_step, read_meta
from mat_jax.errors import UserError
from mat_jax.features import vgg
from mat_jax.nn import model_config, projected
from mat_jax.runtime import sharding
from mat_jax.training import growing
from mat_jax.training.step import accumulators, aot, loss_scale
from mat_jax.training.step import settings as settings_lib
from mat_jax.training.step.objectives import Networks
from mat_jax.training.step.train_state import TrainState

# Validation metric -> whether higher is better.
_METRICS = {'lpips_alex': False, 'psnr': True, 'ssim': True, 'l1': False, 'psnr_hole': True,
            'ssim_hole': True, 'l1_hole': False}
# Fewer kimg from random weights are too few; MAT's authors took 25,000 and more.
_FEWEST_KIMG = 1000.0


def with_model_of(config: ml_collections.ConfigDict, workdir: str) -> ml_collections.ConfigDict:
  """Resolves the model config: a copy of the config with the model of the initial checkpoint.

  The initial checkpoint is the newest of the workdir, else `config.init_from`, else none.

  Raises:
    UserError: the checkpoint is of another architecture.
  """
  config = config.copy_and_resolve_references()
  source = newest_step(workdir) or (config.init_from if not config.grow else '')
  if source:
    path, model = read_model(source)
    config.model = resolve_model_config(config.model, model, path)
  config.model.mapping_layers = model_config.mapping_layers(config.model)
  return config


def best_from_config(train: ml_collections.ConfigDict) -> Best:
  """The criterion for the best checkpoint; UserError for a metric that does not exist."""
  if train.best_metric not in _METRICS:
    raise UserError(f'train.best_metric is {train.best_metric!r}; choose among '
                    f'{", ".join(_METRICS)}')
  return Best(f'validation/{train.best_metric}', _METRICS[train.best_metric])


def open_checkpoints(config: ml_collections.ConfigDict, workdir: str,
                     num_images: int) -> Checkpoints:
  """The workdir's checkpoints, for a run that goes on from the newest one.

  Args:
    config: see `configs/base.py`, with the model of the checkpoint.
    workdir: the run's folder.
    num_images: in the training set.

  Raises:
    UserError: the run differs from that of the newest checkpoint.
  """
  meta = {'model': config.model.to_dict(), 'config': config.to_dict(), 'images': num_images}
  newest = newest_step(workdir)
  if newest:
    check_resume(read_meta(newest), meta, newest, parse_accepted(config.accept_changes))
  return Checkpoints(workdir, meta, config.train.max_to_keep,
                     best_from_config(config.train))


def microbatch_until_now(config: ml_collections.ConfigDict, workdir: str) -> int | None:
  """The microbatch of the run in the workdir, None for a new one or another batch size."""
  newest = newest_step(workdir)
  meta = read_meta(newest) if newest else {}
  batch_size = meta.get('config', {}).get('train', {}).get('batch_size')
  return meta.get('microbatch') if batch_size == config.train.batch_size else None


def make_networks(config: ml_collections.ConfigDict,
                  features: vgg.Pretrained | None = None) -> Networks:
  """The modules of a run, with the network of its perceptual losses."""
  arguments = config.model, config.implementations, config.train.remat
  return Networks(model_config.generator_from_config(*arguments),
                  model_config.discriminator_from_config(*arguments),
                  features.network if features else 'vgg16',
                  model_config.projected_from_config(config))


def initial_state(config: ml_collections.ConfigDict, networks: Networks,
                  settings: settings_lib.Training, mesh: Mesh,
                  checkpoints: Checkpoints) -> TrainState:
  """The workdir's newest state, else that of `config.init_from`, else a fresh one."""
  replicated = sharding.replicated(mesh)
  create = aot.compiled_create(networks, settings, mesh)
  key = jax.random.key(config.seed)
  like = abstract_state(jax.eval_shape(create, key), replicated)
  state = checkpoints.restore(like)
  if state is not None:
    if like.loss_scale is not None and state.loss_scale is None:  # it was not in float16 until now
      state = state.replace(loss_scale=sharding.replicate(loss_scale.fresh(), mesh))
    if state.gradient_norms is None:  # an older version's
      state = state.replace(gradient_norms=sharding.replicate(accumulators.no_norms(), mesh))
    logging.info('Resumed at step %d, %.1f kimg.', int(state.step),
                 int(state.images_seen) / 1000)
  else:
    state = create(key)
    if config.init_from:
      state = _warm_start(config, state, mesh, settings.is_adversarial)
    elif config.is_fine_tuning and config.train.total_kimg < _FEWEST_KIMG:
      _warn_of_scratch(config.train.total_kimg)
  _log_parameters('generator', state.g_params)
  _log_parameters('discriminator', state.d_params)
  return state


def _warn_of_scratch(kimg: float) -> None:
  logging.warning(
      'Training begins with random weights and ends after %g kimg, but this configuration is for '
      'fine-tuning: from scratch MAT took 25,000 kimg on CelebA-HQ. What is missing, unless '
      'train.total_kimg is to be thousands:\n\n'
      '    --config.init_from=models/celebahq256\n\n'
      'README.md says how to get and convert that checkpoint.', kimg)


def _log_parameters(name: str, params: Any) -> None:
  parameter_overview.log_parameter_overview(
      params, include_stats=False, msg=f'Parameters of the {name}', jax_logging_process=0)


def _with_heads_of(ours: Any, found: Any) -> Any:
  """Parameters of a discriminator, with one on features if and only if the run has one."""
  branches = {name: params for name, params in found.items() if name != projected.PARAMS}
  if projected.PARAMS not in ours:
    return branches
  heads = found.get(projected.PARAMS)
  return {**branches, projected.PARAMS: jax.device_get(ours[projected.PARAMS])
          if heads is None else heads}


def _grown(config: ml_collections.ConfigDict, state: TrainState,
           found: PretrainedNetworks) -> dict[str, Any]:
  """The fields of a fresh state, with what networks of a lower resolution have of them."""
  side, wanted = found.model['resolution'], config.model.resolution
  if side >= wanted:
    raise UserError(f'config.grow is for networks of a lower resolution, but {found.path} is of '
                    f'{side} px and this run of {wanted}; leave grow out')
  check_architecture({**found.model, 'resolution': wanted}, config.model, found.path)
  fresh = {name: getattr(state, name) for name in found.networks}
  fields, new = growing.grow(fresh, found.networks)
  logging.info('Growing from %d to %d px; %d arrays are fresh: %s.', side, wanted, len(new),
               ', '.join(new))
  return fields


def _warm_start(config: ml_collections.ConfigDict, state: TrainState, mesh: Mesh,
                is_adversarial: bool) -> TrainState:
  """Warm start: a fresh state with the pretrained networks of `config.init_from`."""
  found = restore_networks(config.init_from)
  logging.info('Starting from the networks of %s.', found.path)
  fields = _grown(config, state, found) if config.grow else dict(found.networks)
  if not is_adversarial:
    fields.pop('d_params', None)
  elif 'd_params' not in fields:
    warmup = config.train.discriminator_warmup_kimg
    logging.warning('%s has no trained discriminator; a fresh one is trained for %g kimg before the '
                    'generator trains (train.discriminator_warmup_kimg).', found.path, warmup)
    fields['warmup_images'] = np.int32(round(warmup * 1000))
  elif not config.grow:
    fields['d_params'] = _with_heads_of(state.d_params, fields['d_params'])
  return state.replace(**sharding.replicate(fields, mesh))
