"""Small DINOv2 and CLIP state dicts with the published names, filled from the names."""

import numpy as np

from benchmarks.reference import fill

WIDTH, DEPTH, PATCH, FEATURES = 128, 2, 14, 48
DINOV2_GRID = 37  # of the published position embedding
CLIP_GRID = 4


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Normal values, scaled so that every parameter tells in the result."""
  return {name: _value(name, shape) for name, shape in shapes.items()}


def dinov2_shapes() -> dict[str, tuple[int, ...]]:
  """As in `dinov2_vitl14_pretrain.pth`, but of two blocks."""
  shapes = {'cls_token': (1, 1, WIDTH), 'pos_embed': (1, 1 + DINOV2_GRID**2, WIDTH),
            'mask_token': (1, WIDTH), 'patch_embed.proj.weight': (WIDTH, 3, PATCH, PATCH),
            'patch_embed.proj.bias': (WIDTH,)}
  for i in range(DEPTH):
    shapes |= _block(f'blocks.{i}.', ('norm1.', 'norm2.'), {
        'attn.qkv.': (3 * WIDTH, WIDTH), 'attn.proj.': (WIDTH, WIDTH),
        'mlp.fc1.': (4 * WIDTH, WIDTH), 'mlp.fc2.': (WIDTH, 4 * WIDTH)})
    shapes |= {f'blocks.{i}.ls1.gamma': (WIDTH,), f'blocks.{i}.ls2.gamma': (WIDTH,)}
  return shapes | _layer('norm.', (WIDTH,))


def clip_shapes() -> dict[str, tuple[int, ...]]:
  """As in Hugging Face's `model.safetensors`, but of two blocks and without the text part."""
  shapes = {'vision_model.embeddings.class_embedding': (WIDTH,),
            'vision_model.embeddings.position_embedding.weight': (1 + CLIP_GRID**2, WIDTH),
            'vision_model.embeddings.patch_embedding.weight': (WIDTH, 3, PATCH, PATCH),
            'visual_projection.weight': (FEATURES, WIDTH)}
  for i in range(DEPTH):
    shapes |= _block(f'vision_model.encoder.layers.{i}.', ('layer_norm1.', 'layer_norm2.'), {
        **{f'self_attn.{part}_proj.': (WIDTH, WIDTH) for part in ('q', 'k', 'v', 'out')},
        'mlp.fc1.': (4 * WIDTH, WIDTH), 'mlp.fc2.': (WIDTH, 4 * WIDTH)})
  for name in ('pre_layrnorm', 'post_layernorm'):
    shapes |= _layer(f'vision_model.{name}.', (WIDTH,))
  return shapes


def openai_clip(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same weights in the naming of OpenAI."""
  start, layers = 'vision_model.', 'vision_model.encoder.layers'
  weights = {
      'visual.class_embedding': state_dict[f'{start}embeddings.class_embedding'],
      'visual.positional_embedding': state_dict[f'{start}embeddings.position_embedding.weight'],
      'visual.conv1.weight': state_dict[f'{start}embeddings.patch_embedding.weight'],
      'visual.proj': state_dict['visual_projection.weight'].T}
  for part in ('weight', 'bias'):
    weights[f'visual.ln_pre.{part}'] = state_dict[f'{start}pre_layrnorm.{part}']
    weights[f'visual.ln_post.{part}'] = state_dict[f'{start}post_layernorm.{part}']
    for i in range(DEPTH):
      block = f'visual.transformer.resblocks.{i}'
      weights[f'{block}.attn.in_proj_{part}'] = np.concatenate(
          [state_dict[f'{layers}.{i}.self_attn.{name}_proj.{part}'] for name in 'qkv'])
      for ours, theirs in (('layer_norm1', 'ln_1'), ('self_attn.out_proj', 'attn.out_proj'),
                           ('layer_norm2', 'ln_2'), ('mlp.fc1', 'mlp.c_fc'),
                           ('mlp.fc2', 'mlp.c_proj')):
        weights[f'{block}.{theirs}.{part}'] = state_dict[f'{layers}.{i}.{ours}.{part}']
  return weights


def images(key: str, height: int, width: int) -> np.ndarray:
  """uint8 [2, height, width, 3], one of noise and one of broad gradients."""
  noise = fill.uniform(f'{key}/noise', (height, width, 3), 0, 256)
  coarse = fill.uniform(f'{key}/smooth', (2, 2, 3), 0, 256)
  y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
  smooth = (coarse[0, 0] * (1 - y) * (1 - x) + coarse[0, 1] * (1 - y) * x
            + coarse[1, 0] * y * (1 - x) + coarse[1, 1] * y * x)
  return np.stack([noise, smooth]).astype(np.uint8)


def _block(prefix, norms, products):
  shapes = {}
  for name in norms:
    shapes |= _layer(prefix + name, (WIDTH,))
  for name, shape in products.items():
    shapes |= _layer(prefix + name, shape)
  return shapes


def _layer(name, shape):
  return {f'{name}weight': shape, f'{name}bias': shape[:1]}


def _value(name, shape):
  value = fill.normal('vision/' + name, shape)
  if 'embed' in name or 'token' in name:
    return 0.02 * value  # so small that the epsilon of the first norm tells
  if len(shape) == 1 and name.endswith('weight'):  # of a norm
    return 1 + 0.3 * value
  if name.endswith('weight'):
    return value * np.float32(2 / np.sqrt(shape[1]))
  return 0.5 * value
