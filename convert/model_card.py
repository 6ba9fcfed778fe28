"""The README.md beside saved weights: the model card of the Hugging Face Hub.

Its YAML header (https://huggingface.co/docs/hub/model-cards) is how the Hub finds the licence, the
task and the library of a model.
"""

from collections.abc import Mapping
import dataclasses
import json
import re
import string
from typing import Any

import mat_jax
from mat_jax.errors import UserError

# Identifiers of licences on the Hub: apache-2.0, cc-by-nc-4.0, other ...
_LICENSE = re.compile(r'[a-z0-9][a-z0-9.+-]{0,63}')
TAGS = ('inpainting', 'image-inpainting', 'mask-aware-transformer', 'jax', 'flax')
LIBRARY = 'mat-jax'
TASK = 'image-to-image'

_TEXT = string.Template('''\
$header
# MAT, $resolution px

A generator of MAT, the Mask-Aware Transformer for large-hole image inpainting
([arXiv 2203.15270](https://arxiv.org/abs/2203.15270)), saved by mat-jax $version.

$description

| | |
|---|---|
| resolution | $resolution px |
| width | $width |
| mapping layers | $mapping_layers |
| parameters | $parameters |
| training step, images seen | $step, $images_seen |

```python
from mat_jax import Inpainter
inpainter = Inpainter.from_pretrained('PATH_OR_REPOSITORY')
filled = inpainter.inpaint(image, mask)  # uint8 [H, W, 3]; mask 255 = kept, 0 = hole
```

`model.safetensors` has the names, shapes and layouts of the PyTorch implementation. Programs that
build the published network (512 px, width 1, 8 mapping layers) read it where they take
safetensors; for those whose network lacks the noise, as IOPaint's, `python -m convert.to_torch
--target=iopaint` leaves it out.

What the network draws in a hole is invented. It suits large holes in pictures like those that it
was trained on; it is no record of what was there.
''')


@dataclasses.dataclass(frozen=True)
class Card:
  """What the weights themselves do not tell.

  Attributes:
    license: identifier of the weights' licence on the Hub, as 'apache-2.0', 'cc-by-nc-4.0' or
      'other'. Weights that were trained from published ones keep the terms of those.
    license_name: its name; for 'other' alone, which needs it.
    license_link: where its text is; likewise.
    datasets: data sets of the Hub that it was trained on.
    description: one paragraph, Markdown.
  """

  license: str
  license_name: str = ''
  license_link: str = ''
  datasets: tuple[str, ...] = ()
  description: str = ''

  def __post_init__(self):
    if not _LICENSE.fullmatch(self.license):
      raise UserError(f'the licence {self.license!r:.80} is no identifier of the Hugging Face Hub; '
                      "give one as 'apache-2.0', or 'other' with license_name and license_link")
    if (self.license == 'other') != bool(self.license_name and self.license_link):
      raise UserError("the licence 'other' needs license_name and license_link, and no other "
                      'licence takes them')


def text(card: Card, config: Mapping[str, Any]) -> str:
  """The README.md of a saved model.

  Args:
    card: what the caller says of it.
    config: the values of its `config.json`.
  """
  return _TEXT.substitute(
      config, header=_header(card), version=mat_jax.__version__, description=card.description,
      parameters=f'{config["parameters"]:,}')


def _header(card: Card) -> str:
  """The YAML header, of JSON values, which YAML takes as they are."""
  values: dict[str, Any] = {'license': card.license}
  if card.license == 'other':
    values |= {'license_name': card.license_name, 'license_link': card.license_link}
  if card.datasets:
    values['datasets'] = list(card.datasets)
  values |= {'library_name': LIBRARY, 'pipeline_tag': TASK, 'tags': list(TAGS)}
  return '\n'.join(['---', *(f'{name}: {json.dumps(value)}' for name, value in values.items()),
                    '---'])
