"""Weights of DINOv2 and CLIP: names, layouts, files."""

from absl import logging
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import vision_transformer_weights
from convert.vision_transformer_weights import (
    clip_params_from_state_dict,
    dinov2_params_from_state_dict,
    load_clip,
    load_dinov2,
)
from mat_jax.errors import UserError
from tests.support import reference, torch_files, vision_weights
from tests.support.vision_weights import WIDTH

HF = 'vision_model.encoder.layers.1.'


@pytest.fixture(scope='module')
def dinov2():
  return vision_weights.filled(vision_weights.dinov2_shapes())


@pytest.fixture(scope='module')
def clip():
  return vision_weights.filled(vision_weights.clip_shapes())


def assert_same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {'float32'}


def test_position_embedding_is_interpolated_as_published(dinov2):
  positions = dinov2['pos_embed'][0, 1:].reshape(37, 37, WIDTH)
  found = vision_transformer_weights.interpolate_positions(positions, 16)
  golden = reference.load('vision_transformers.npz')['positions']  # in float32
  assert reference.relative_error(found[:, :, :4], golden) < 1e-5
  assert vision_transformer_weights.interpolate_positions(positions, 37) is positions


def test_layer_scale_and_biases_are_folded_in(dinov2):
  params = dinov2_params_from_state_dict(dinov2)
  out, gamma = dinov2['blocks.1.attn.proj.weight'], dinov2['blocks.1.ls1.gamma']
  np.testing.assert_allclose(params['blocks']['out']['kernel'][1], out.T * gamma)
  np.testing.assert_allclose(params['blocks']['mlp_out']['bias'][0],
                             dinov2['blocks.0.mlp.fc2.bias'] * dinov2['blocks.0.ls2.gamma'])
  np.testing.assert_allclose(params['class_token'],
                             dinov2['cls_token'][0, 0] + dinov2['pos_embed'][0, 0])
  assert params['positions'].shape == (16, 16, WIDTH)


def test_chunked_blocks(dinov2):
  chunked = {name.replace('blocks.', 'blocks.0.'): array for name, array in dinov2.items()}
  assert 'blocks.0.1.norm1.weight' in chunked
  assert_same(dinov2_params_from_state_dict(chunked), dinov2_params_from_state_dict(dinov2))


def test_dinov2_file(tmp_path, dinov2):
  path = tmp_path / 'dinov2_vits14_pretrain.pth'
  path.write_bytes(torch_files.archive(*torch_files.state_dict(dinov2)))
  assert_same(load_dinov2(str(path)), dinov2_params_from_state_dict(dinov2))


def test_clip_files(tmp_path, clip):
  """The two spellings, with the entries that are to be ignored."""
  expected = clip_params_from_state_dict(clip)
  rest = {'logit_scale': np.array(1, np.float32), 'text_model.final_layer_norm.bias': np.ones(3),
          'vision_model.embeddings.position_ids': np.arange(17)[None]}
  save_file(clip | rest, tmp_path / 'model.safetensors')
  assert_same(load_clip(str(tmp_path / 'model.safetensors')), expected)
  rest = {'transformer.resblocks.0.ln_1.bias': np.ones(3, np.float32),
          'positional_embedding': np.ones((3, 4), np.float32)}
  path = tmp_path / 'openai.pt'
  path.write_bytes(torch_files.archive(*torch_files.state_dict(
      vision_weights.openai_clip(clip) | rest)))
  assert_same(load_clip(str(path)), expected)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision(clip, dtype):
  half = {name: array.astype(dtype) for name, array in clip.items()}
  assert_same(clip_params_from_state_dict(half), clip_params_from_state_dict(
      {name: array.astype(np.float32) for name, array in half.items()}))


def test_other_sizes_than_published_are_said(tmp_path, monkeypatch, dinov2, clip):
  warnings = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: warnings.append(text % args))
  save_file(dinov2, tmp_path / 'dinov2')
  save_file(clip, tmp_path / 'clip')

  def load():
    load_dinov2(str(tmp_path / 'dinov2'))
    load_clip(str(tmp_path / 'clip'))

  load()
  assert len(warnings) == 2
  assert f'dinov2 has width {WIDTH}, 2 blocks and images of 224 px' in warnings[0]
  assert f'clip has width {WIDTH}, 2 blocks and images of 56 px' in warnings[1]
  monkeypatch.setattr(vision_transformer_weights, '_DINOV2_SIZES', (WIDTH, 2, 224))
  monkeypatch.setattr(vision_transformer_weights, '_CLIP_SIZES', (WIDTH, 2, 56))
  load()
  assert len(warnings) == 2


@pytest.mark.parametrize('name,value,message', [
    ('cls_token', None, r'DINOv2 weights lack cls_token: give dinov2_vitl14_pretrain\.pth'),
    ('blocks.0.norm1.weight', None, r'lack blocks\.0\.norm1\.weight'),
    ('blocks.1.ls2.gamma', None, r'lack blocks\.1\.ls2\.gamma'),
    ('blocks.3.norm1.bias', np.zeros(WIDTH), r'lack blocks\.2\.attn\.qkv\.weight'),
    ('head.weight', np.zeros(3), r'have head\.weight, which the network lacks'),
    ('blocks.123456.norm1.bias', np.zeros(WIDTH), r'have blocks\.123456\.norm1\.bias'),
    ('norm.bias', np.zeros(3), r'norm\.bias .*shape \[128\], found \[3\]'),
    ('blocks.1.mlp.fc1.bias', np.zeros((WIDTH, 1)), r'fc1\.bias .*\[512\], found \[128, 1\]'),
    ('pos_embed', np.zeros((1, 1369, WIDTH)), '1369 positions; expected 1 and those of a square'),
    ('pos_embed', np.zeros((1, 1, WIDTH)), '1 positions'),
    ('pos_embed', np.zeros((1, 0, WIDTH)), '0 positions'),
    ('patch_embed.proj.weight', np.zeros((WIDTH, 3, 14, 7)), '14 x 7; expected squares'),
    ('patch_embed.proj.weight', np.zeros((WIDTH, 3, 0, 0)), '0 x 0; expected squares'),
    ('patch_embed.proj.weight', np.zeros((WIDTH, 3, 15, 15)), 'side of 15, .* not divide 224'),
    ('register_tokens', np.zeros((1, 4, WIDTH)), 'registers .* is not supported'),
    ('blocks.0.mlp.w12.weight', np.zeros(3), 'ViT-g/14 is not supported')])
def test_another_dinov2_is_refused(dinov2, name, value, message):
  with pytest.raises(UserError, match=message):
    dinov2_params_from_state_dict(changed(dinov2, name, value))


@pytest.mark.parametrize('width', [0, 96])
def test_width_that_heads_of_64_do_not_divide(dinov2, width):
  narrow = {'cls_token': np.zeros((1, 1, width)), 'pos_embed': np.zeros((1, 1370, width))}
  with pytest.raises(UserError, match=f'cls_token has a width of {width}, which is no multiple'):
    dinov2_params_from_state_dict(dinov2 | narrow)


@pytest.mark.parametrize('name,value,message', [
    ('vision_model.embeddings.class_embedding', None,
     r'CLIP weights lack vision_model.*: give model\.safetensors of openai/clip-vit-large'),
    ('visual_projection.weight', None, r'lack visual_projection\.weight'),
    ('visual_projection.weight', np.zeros((48, 3)), r'\[any, 128\], found \[48, 3\]'),
    ('vision_model.pre_layrnorm.bias', None, r'lack vision_model\.pre_layrnorm\.bias'),
    (f'{HF}self_attn.k_proj.weight', np.zeros((3, 3)), r'layers\.1\.self_attn\.k_proj\.weight'),
    (f'{HF}mlp.fc1.weight', np.zeros((64, WIDTH)), r'fc1\.weight .*\[512, 128\], found \[64, 128\]'),
    ('vision_model.head.bias', np.zeros(3), r'have vision_model\.head\.bias, which')])
def test_another_clip_is_refused(clip, name, value, message):
  with pytest.raises(UserError, match=message):
    clip_params_from_state_dict(changed(clip, name, value))


def test_resnet_of_clip_is_refused():
  state_dict = {'visual.attnpool.positional_embedding': np.zeros((50, 2048), np.float32)}
  with pytest.raises(UserError, match=r'lack visual\.class_embedding'):
    clip_params_from_state_dict(state_dict)


def changed(state_dict, name, value):
  state_dict = {key: array for key, array in state_dict.items() if key != name}
  return state_dict if value is None else state_dict | {name: value.astype(np.float32)}


@pytest.mark.parametrize('load', [load_dinov2, load_clip])
def test_files_of_another_kind(tmp_path, load):
  path = tmp_path / 'weights.pth'
  with pytest.raises(UserError, match=f'{path} cannot be read'):
    load(str(path))
  path.write_bytes(b'<html>')
  with pytest.raises(UserError, match=f'{path} is neither'):
    load(str(path))
  path.write_bytes(torch_files.official())
  with pytest.raises(UserError, match=f'{path} holds several networks'):
    load(str(path))
