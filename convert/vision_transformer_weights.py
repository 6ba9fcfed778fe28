"""Published weights of DINOv2 and CLIP as parameters of `mat_jax.features.vision_transformer`.

Nothing is downloaded, the user gives a file:

- DINOv2, licence Apache 2.0: `dinov2_vitl14_pretrain.pth` (or vits14, vitb14), linked from
  the README of the repository `facebookresearch/dinov2`. FD-DINOv2 is defined with vitl14.
- CLIP, licence MIT: `model.safetensors` or `pytorch_model.bin` of
  Hugging Face's `openai/clip-vit-large-patch14-336`, the network that CMMD is defined
  with; or a state dict in the naming of OpenAI's repository `CLIP` (whose own `.pt` files
  are programs, not state dicts, and are refused).
"""

from collections.abc import Mapping
import dataclasses
import math
import re
from typing import Any

from absl import logging
import numpy as np

from convert.torch_files.torch_reader import read_networks
from mat_jax.errors import UserError
from mat_jax.features import vision_transformer

Params = dict[str, Any]
StateDict = Mapping[str, np.ndarray]

_DINOV2_FILE = 'dinov2_vitl14_pretrain.pth'
_CLIP_FILE = 'model.safetensors of openai/clip-vit-large-patch14-336'
_DINOV2_SIDE = 224  # of the input of FD-DINOv2, in pixels
# Width, number of blocks and side of the input that the metrics were published with.
_DINOV2_SIZES = (1024, 24, _DINOV2_SIDE)
_CLIP_SIZES = (1024, 24, 336)


@dataclasses.dataclass(frozen=True)
class _Names:
  """How a file spells the layers; 'weight' or 'bias' follows where a name ends in . or _."""

  class_token: str
  positions: str
  patches: str
  block: str  # a number and a dot follow
  norm1: str
  qkv: tuple[str, ...]  # of one matmul, or of three
  out: str
  norm2: str
  mlp_in: str
  mlp_out: str
  norm: str
  pre_norm: str | None = None
  layer_scales: tuple[str, ...] = ()  # of `out` and `mlp_out`


_DINOV2 = _Names(
    class_token='cls_token', positions='pos_embed', patches='patch_embed.proj.', block='blocks.',
    norm1='norm1.', qkv=('attn.qkv.',), out='attn.proj.', norm2='norm2.', mlp_in='mlp.fc1.',
    mlp_out='mlp.fc2.', norm='norm.', layer_scales=('ls1.gamma', 'ls2.gamma'))
_OPENAI = _Names(
    class_token='visual.class_embedding', positions='visual.positional_embedding',
    patches='visual.conv1.', block='visual.transformer.resblocks.', norm1='ln_1.',
    qkv=('attn.in_proj_',), out='attn.out_proj.', norm2='ln_2.', mlp_in='mlp.c_fc.',
    mlp_out='mlp.c_proj.', norm='visual.ln_post.', pre_norm='visual.ln_pre.')
_HUGGING_FACE = _Names(
    class_token='vision_model.embeddings.class_embedding',
    positions='vision_model.embeddings.position_embedding.weight',
    patches='vision_model.embeddings.patch_embedding.', block='vision_model.encoder.layers.',
    norm1='layer_norm1.', qkv=tuple(f'self_attn.{part}_proj.' for part in 'qkv'),
    out='self_attn.out_proj.', norm2='layer_norm2.', mlp_in='mlp.fc1.', mlp_out='mlp.fc2.',
    norm='vision_model.post_layernorm.',
    pre_norm='vision_model.pre_layrnorm.')  # as the published files misspell it


class _Weights:
  """Arrays that are taken by name, each with its shape checked.

  Args:
    network: what messages call it.
    expected: the file to give instead, for messages.
    arrays: all that are to be taken.
  """

  def __init__(self, network: str, expected: str, arrays: StateDict):
    self._network, self._expected = network, expected
    self._left = dict(arrays)

  def take(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The float32 array `name`, whose shape has to be the given one; None is any number."""
    if name not in self._left:
      raise UserError(f'the {self._network} weights lack {name}: give {self._expected}.')
    array = self._left.pop(name)
    if len(array.shape) != len(shape) or any(
        n not in (None, found) for n, found in zip(shape, array.shape, strict=True)):
      sides = ', '.join('any' if n is None else str(n) for n in shape)
      raise UserError(f'{name} of the {self._network} weights has to have the shape [{sides}], '
                      f'found {list(array.shape)}.')
    return np.asarray(array, np.float32)

  def norm(self, name: str, width: int) -> dict[str, np.ndarray]:
    return {'scale': self.take(f'{name}weight', (width,)),
            'bias': self.take(f'{name}bias', (width,))}

  def dense(self, name: str, inputs: int, outputs: int | None) -> dict[str, np.ndarray]:
    """A dense layer: {'kernel': [inputs, outputs], 'bias': [outputs]}; None takes any number."""
    kernel = self.take(f'{name}weight', (outputs, inputs)).T
    return {'kernel': kernel, 'bias': self.take(f'{name}bias', kernel.shape[1:])}

  def depth(self, prefix: str) -> int:
    """One more than the largest number after `prefix`, at least 1."""
    numbers = re.compile(re.escape(prefix) + r'(\d{1,4})\.')
    return 1 + max((int(match[1]) for name in self._left if (match := numbers.match(name))),
                   default=0)

  def finish(self) -> None:
    """Refuses what has not been taken."""
    if self._left:
      raise UserError(f'the {self._network} weights have {min(self._left)}, which the network '
                      f'lacks: give {self._expected}.')


def load_dinov2(path: str) -> Params:
  """Reads DINOv2.

  Args:
    path: of `dinov2_vits14_pretrain.pth`, `dinov2_vitb14_pretrain.pth` or
      `dinov2_vitl14_pretrain.pth`.

  Returns:
    Parameters of `mat_jax.features.vision_transformer.dinov2_features`, float32, for images that
    are resized to 224.

  Raises:
    UserError: the file cannot be read, or is another than expected.
  """
  params = dinov2_params_from_state_dict(_state_dict(path))
  _warn_of_other_sizes(path, params, _DINOV2_SIZES, 'FD-DINOv2 with DINOv2 ViT-L/14')
  return params


def load_clip(path: str) -> Params:
  """Reads the image part of CLIP.

  Args:
    path: of `model.safetensors` or `pytorch_model.bin` of a CLIP with a vision
      transformer, or of a state dict in OpenAI's naming. The text part is ignored.

  Returns:
    Parameters of `mat_jax.features.vision_transformer.clip_features`, float32.

  Raises:
    UserError: the file cannot be read, or is another than expected.
  """
  params = clip_params_from_state_dict(_state_dict(path))
  _warn_of_other_sizes(path, params, _CLIP_SIZES, 'CMMD with CLIP ViT-L/14 for 336 px')
  return params


def dinov2_params_from_state_dict(state_dict: StateDict) -> Params:
  """Renames and transposes DINOv2, its position embedding interpolated for images of 224.

  Args:
    state_dict: 'cls_token', 'pos_embed', 'patch_embed.proj.*', 'blocks.N.*' (or
      'blocks.CHUNK.N.*') and 'norm.*'. 'mask_token', which only training needs, is ignored.

  Returns:
    See `load_dinov2`.

  Raises:
    UserError: a parameter is missing, left over or misshapen.
  """
  if 'register_tokens' in state_dict:
    raise UserError('DINOv2 with registers (reg4) is not supported, FD-DINOv2 is defined without: '
                    f'give {_DINOV2_FILE}.')
  if any('.mlp.w12.' in name for name in state_dict):
    raise UserError('DINOv2 ViT-g/14 is not supported, FD-DINOv2 is defined with ViT-L/14: give '
                    f'{_DINOV2_FILE}.')
  weights = _Weights('DINOv2', _DINOV2_FILE, {
      re.sub(r'^blocks\.\d+\.(\d+\.)', r'blocks.\1', name): array
      for name, array in state_dict.items() if name != 'mask_token'})
  class_token = weights.take('cls_token', (1, 1, None))[0, 0]
  positions = weights.take('pos_embed', (1, None, class_token.size))[0]
  params = _embedding(weights, _DINOV2, class_token, positions)
  patch = params['patches']['kernel'].shape[0]
  if _DINOV2_SIDE % patch:
    raise UserError(f'the patches of DINOv2 have a side of {patch}, which does not divide '
                    f'{_DINOV2_SIDE}.')
  bias = weights.take('patch_embed.proj.bias', (class_token.size,))
  params['positions'] = interpolate_positions(params['positions'], _DINOV2_SIDE // patch) + bias
  params |= _trunk(weights, _DINOV2, class_token.size)
  weights.finish()
  return params


def clip_params_from_state_dict(state_dict: StateDict) -> Params:
  """Renames and transposes the image part of CLIP.

  Args:
    state_dict: in the naming of Hugging Face ('vision_model.*', 'visual_projection.weight')
      or of OpenAI ('visual.*'). Other entries, those of the text part, are ignored.

  Returns:
    See `load_clip`.

  Raises:
    UserError: a parameter is missing, left over or misshapen.
  """
  openai = any(name.startswith('visual.') for name in state_dict)
  names = _OPENAI if openai else _HUGGING_FACE
  prefixes = ('visual.',) if openai else ('vision_model.', 'visual_projection.')
  weights = _Weights('CLIP', _CLIP_FILE, {
      name: array for name, array in state_dict.items() if name.startswith(prefixes)
      and name != 'vision_model.embeddings.position_ids'})  # 0, 1, 2, ...
  class_token = weights.take(names.class_token, (None,))
  width = class_token.size
  positions = weights.take(names.positions, (None, width))
  params = _embedding(weights, names, class_token, positions)
  params |= _trunk(weights, names, width)
  params['projection'] = (weights.take('visual.proj', (width, None)) if openai else
                          np.ascontiguousarray(
                              weights.take('visual_projection.weight', (None, width)).T))
  weights.finish()
  return params


def interpolate_positions(positions: np.ndarray, side: int) -> np.ndarray:
  """Resizes a position embedding the way the published DINOv2 does.

  That is PyTorch's bicubic interpolation (Keys' cubic with a = -0.75, edges repeated, no
  antialiasing) by a factor of (side + 0.1) / M, meant to keep rounding from losing a row.
  The samples therefore lie M / (side + 0.1) apart, a little closer than M / side.

  Args:
    positions: [M, M, width].
    side: of the result.

  Returns:
    float32 [side, side, width], computed in float64; `positions` itself if M is `side`.
  """
  size = positions.shape[0]
  if size == side:
    return positions
  source = (np.arange(side) + 0.5) * size / (side + 0.1) - 0.5
  taps = np.floor(source).astype(int)[:, None] + np.arange(-1, 3)
  weights = np.zeros((side, size))
  np.add.at(weights, (np.arange(side)[:, None], np.clip(taps, 0, size - 1)),
            vision_transformer.keys_cubic(source[:, None] - taps, a=-0.75))
  return np.einsum('ih,hwc,jw->ijc', weights, positions, weights, optimize=True).astype(np.float32)


def _embedding(weights: _Weights, names: _Names, class_token: np.ndarray,
               positions: np.ndarray) -> Params:
  """Patches and tokens, from a position embedding of [1 + M * M, width]."""
  width = class_token.size
  if width % vision_transformer.HEAD_WIDTH or not width:
    raise UserError(f'{names.class_token} has a width of {width}, which is no multiple of '
                    f'{vision_transformer.HEAD_WIDTH}.')
  side = math.isqrt(len(positions) - 1) if len(positions) > 1 else 0
  if not side or side**2 != len(positions) - 1:
    raise UserError(f'{names.positions} has {len(positions)} positions; expected 1 and those of a '
                    'square.')
  kernel = weights.take(f'{names.patches}weight', (width, 3, None, None))
  sides = kernel.shape[2:]
  if sides[0] != sides[1] or not sides[0]:
    raise UserError(f'{names.patches}weight has patches of {sides[0]} x {sides[1]}; expected '
                    'squares.')
  return {'patches': {'kernel': np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))},
          'class_token': class_token + positions[0],
          'positions': positions[1:].reshape(side, side, width)}


def _trunk(weights: _Weights, names: _Names, width: int) -> Params:
  """The blocks, each array with a leading axis for their number, and the norms around them."""
  blocks, hidden = [], None
  for i in range(weights.depth(names.block)):
    blocks.append(_block(weights, names, f'{names.block}{i}.', width, hidden))
    hidden = blocks[0]['mlp_in']['bias'].size
  stacked = {layer: {part: np.stack([block[layer][part] for block in blocks]) for part in parts}
             for layer, parts in blocks[0].items()}
  norms = {'norm': weights.norm(names.norm, width)}
  if names.pre_norm:
    norms['pre_norm'] = weights.norm(names.pre_norm, width)
  return {'blocks': stacked, **norms}


def _block(weights: _Weights, names: _Names, prefix: str, width: int,
           hidden: int | None) -> dict[str, dict[str, np.ndarray]]:
  qkv = [weights.dense(prefix + name, width, 3 * width // len(names.qkv)) for name in names.qkv]
  block = {
      'norm1': weights.norm(prefix + names.norm1, width),
      'qkv': {part: np.concatenate([dense[part] for dense in qkv], -1) for part in qkv[0]},
      'out': weights.dense(prefix + names.out, width, width),
      'norm2': weights.norm(prefix + names.norm2, width),
      'mlp_in': weights.dense(prefix + names.mlp_in, width, hidden)}
  hidden = block['mlp_in']['bias'].size
  block['mlp_out'] = weights.dense(prefix + names.mlp_out, hidden, width)
  for layer, name in zip(('out', 'mlp_out'), names.layer_scales, strict=False):
    gamma = weights.take(prefix + name, (width,))
    block[layer] = {part: array * gamma for part, array in block[layer].items()}
  return block


def _state_dict(path: str) -> StateDict:
  networks = read_networks(path)
  if len(networks) > 1:
    raise UserError(f'{path} holds several networks ({", ".join(networks)}): it is a checkpoint '
                    'of MAT.')
  (network,) = networks.values()
  return network.state_dict


def _warn_of_other_sizes(path: str, params: Params, published: tuple[int, int, int],
                         metric: str) -> None:
  found = (params['class_token'].size, len(params['blocks']['norm1']['bias']),
           vision_transformer.input_side(params))
  if found != published:
    logging.warning('%s has width %d, %d blocks and images of %d px; published was %s, so that '
                    'values cannot be compared.', path, *found, metric)
